from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from proa.system import processes
from proa.system.locks import FileLock, is_held


async def test_a_lock_lives_as_long_as_the_child_that_inherited_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock.try_acquire(path)
    assert lock is not None
    assert FileLock.try_acquire(path) is None
    child = processes.spawn_detached(
        [sys.executable, "-c", "import signal; signal.pause()"], log=tmp_path / "log", pass_fds=(lock.fd,)
    )
    lock.release()
    assert is_held(path), "the child holds it"
    processes.kill(child, force=True)
    await asyncio.wait_for(processes.wait_end(child), 5)
    assert not is_held(path)


def test_looking_at_a_lock_that_nobody_made_makes_none(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()


def test_looking_at_a_lock_makes_no_file_and_needs_no_right_to_write(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    assert not path.exists()
    lock = FileLock.try_acquire(path)
    assert lock is not None
    path.chmod(0o400)
    assert is_held(path)
    lock.release()
    assert not is_held(path)


def test_whoever_only_looks_keeps_nobody_from_having_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            is_held(path)

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            for _ in range(50):
                lock = FileLock.acquire(path, 5)
                assert lock is not None
                assert FileLock.acquire(path, 0.01) is None
                lock.release()
        finally:
            ended.set()
        looking.result(5)
