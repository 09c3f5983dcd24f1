from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from proa.model.errors import ProaError
from proa.system import processes
from proa.system.processes import ProcessIdentity


def _sleeper(tmp_path: Path, *, fds: tuple[int, ...] = ()) -> ProcessIdentity:
    return processes.spawn_detached(
        [sys.executable, "-c", "import signal; signal.pause()"], log=tmp_path / "log", pass_fds=fds
    )


async def test_a_detached_process_is_proved_and_ended(tmp_path: Path) -> None:
    child = _sleeper(tmp_path)
    assert processes.alive(child)
    assert os.getsid(child.pid) == child.pid
    assert processes.kill(child, force=True)
    await asyncio.wait_for(processes.wait_end(child), 5)
    assert not processes.alive(child)
    assert not Path(f"/proc/{child.pid}").exists(), "it was reaped"


def test_a_stranger_with_the_same_pid_is_never_signalled() -> None:
    stranger = ProcessIdentity(os.getpid(), "another boot:1")
    assert not processes.alive(stranger)
    assert not processes.kill(stranger, force=True)  # or this test would have ended here


def test_a_command_that_fails_is_explained_with_a_line_to_paste() -> None:
    done = processes.run(["sh", "-c", "echo why it failed >&2; exit 3"], timeout=10)
    assert (done.status, done.stderr) == (3, b"why it failed\n")
    with pytest.raises(ProaError) as caught:
        done.check("do a thing")
    assert caught.value.message == "cannot do a thing"
    assert caught.value.why == "sh: why it failed"
    assert "sh -c 'echo why it failed >&2; exit 3'" in caught.value.hint


def test_a_command_that_hangs_or_is_missing_says_so() -> None:
    with pytest.raises(ProaError) as caught:
        processes.run(["sleep", "60"], timeout=0.2)
    assert caught.value.code == "command-hung"
    with pytest.raises(ProaError) as caught:
        processes.run(["/nonexistent/program"], timeout=1)
    assert caught.value.code == "command-missing"


def test_programs_of_the_current_folder_are_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "docker-xyz"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f".{os.pathsep}{os.pathsep}/usr/bin")
    assert processes.which("docker-xyz") is None
    monkeypatch.setenv("PATH", f"/usr/bin{os.pathsep}{tmp_path}")
    assert processes.which("docker-xyz") == program
