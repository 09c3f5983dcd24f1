"""Locks that count on both sides: who holds one keeps everybody else away, in the guest and on the host."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proa.system.file_locks import NONE, READ, WRITE, Range, changed
from tests.support.share_mounts import ShareMount, soon

pytestmark = [pytest.mark.timeout(60)]
KINDS = {"flock": fcntl.flock, "lockf": fcntl.lockf}

# -- what an owner holds ---------------------------------------------------------------------------

_ENDS = st.integers(0, 20)


@given(
    st.lists(
        st.tuples(_ENDS, _ENDS, st.sampled_from((READ, WRITE, NONE)))
        .filter(lambda part: part[0] <= part[1])
        .map(lambda part: Range(*part))
    )
)
def test_ranges_are_what_each_byte_was_last(steps: list[Range]) -> None:
    held: tuple[Range, ...] = ()
    each = [NONE] * 21
    for step in steps:
        held = changed(held, step)
        for byte in range(step.start, step.end + 1):
            each[byte] = step.kind
    found = [NONE] * 21
    for part in held:
        assert part.kind != NONE
        for byte in range(part.start, part.end + 1):
            assert found[byte] == NONE, "they are apart"
            found[byte] = part.kind
    assert found == each
    assert all(
        (one.end + 1, one.kind) != (next_.start, next_.kind) for one, next_ in itertools.pairwise(held)
    )


# -- on a mount ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShareMount]:
    folder = tmp_path_factory.mktemp("locks")
    (folder / "root").mkdir()
    with ShareMount(folder, {folder / "root": True}, locks="host") as found:
        yield found


@pytest.fixture
def file(mount: ShareMount, request: pytest.FixtureRequest) -> Path:
    """A file of the host's for one test."""
    path = next(iter(mount.roots)) / request.node.name.replace("[", "-").rstrip("]")
    path.write_text("0123456789")
    return path


def is_free(path: Path, kind: str = "flock", how: int = fcntl.LOCK_EX) -> bool:
    with path.open("r+") as file:
        try:
            KINDS[kind](file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guest_first", [True, False])
def test_one_side_keeps_the_other_away(mount: ShareMount, file: Path, kind: str, guest_first: bool) -> None:
    guest = mount.path(file)
    one, other = (guest, file) if guest_first else (file, guest)
    with one.open("r+") as holder:
        KINDS[kind](holder, fcntl.LOCK_SH)
        assert is_free(other, kind, fcntl.LOCK_SH) or kind == "lockf"  # which is to be open for reading
        assert not is_free(other, kind)
        KINDS[kind](holder, fcntl.LOCK_EX)
        assert not is_free(other, kind, fcntl.LOCK_SH)
        KINDS[kind](holder, fcntl.LOCK_UN)
        assert is_free(other, kind)
        KINDS[kind](holder, fcntl.LOCK_EX)
    assert soon(lambda: is_free(other, kind)), "closed, so it is free"


def test_processes_of_the_guest_keep_each_other_away(mount: ShareMount, file: Path) -> None:
    guest = mount.path(file)
    with guest.open("r+") as one, guest.open("r+") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with guest.open("r+") as holder:
        fcntl.lockf(holder, fcntl.LOCK_EX, 5, 2)
        program = (
            "import fcntl, struct, sys; file = open(sys.argv[1], 'r+');"
            "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, 0);"  # another part is free
            "asked = struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0);"
            "print(*struct.unpack('hhqqi4x', fcntl.fcntl(file, fcntl.F_GETLK, asked)))"
        )
        run = subprocess.run(
            [sys.executable, "-c", program, str(guest)],
            check=True, capture_output=True, text=True, timeout=20,
        )  # fmt: skip
    assert run.stdout.split() == [str(fcntl.F_WRLCK), "0", "2", "5", str(os.getpid())]


def test_a_process_that_read_first_may_lock_for_writing(mount: ShareMount, file: Path) -> None:
    guest = mount.path(file)
    with guest.open("r") as reader, guest.open("r+") as writer:
        fcntl.lockf(reader, fcntl.LOCK_SH)
        assert not is_free(file, "lockf")
        fcntl.lockf(writer, fcntl.LOCK_EX, 4, 2)
        with file.open("r+") as other:
            fcntl.lockf(other, fcntl.LOCK_SH | fcntl.LOCK_NB, 2, 0)
            with pytest.raises(BlockingIOError):
                fcntl.lockf(other, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 3)
            with pytest.raises(BlockingIOError):
                fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 8)
    assert soon(lambda: is_free(file, "lockf"))


def test_a_lock_of_the_hosts_is_told_without_its_process(mount: ShareMount, file: Path) -> None:
    with file.open("r+") as holder, mount.path(file).open("r+") as asker:
        fcntl.lockf(holder, fcntl.LOCK_EX, 3, 4)
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
        answer = struct.unpack("hhqqi4x", fcntl.fcntl(asker, fcntl.F_GETLK, asked))
    assert answer == (fcntl.F_WRLCK, 0, 4, 3, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_who_waits_gets_it_when_the_host_lets_go(mount: ShareMount, file: Path, kind: str) -> None:
    got = threading.Event()

    def wait() -> None:
        with mount.path(file).open("r+") as waiter:
            KINDS[kind](waiter, fcntl.LOCK_EX)
            got.set()

    with file.open("r+") as holder:
        KINDS[kind](holder, fcntl.LOCK_EX)
        thread = threading.Thread(target=wait)
        thread.start()
        assert not got.wait(0.1)
        KINDS[kind](holder, fcntl.LOCK_UN)
        assert got.wait(20)
    thread.join(20)


def _waiting(path: Path) -> subprocess.Popen[bytes]:
    program = "import fcntl, sys; file = open(sys.argv[1], 'r+'); print(flush=True); fcntl.flock(file, 2)"
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_who_does_not_want_to_wait_any_more_can_be_ended(mount: ShareMount, file: Path) -> None:
    with file.open("r+") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        for number in (signal.SIGTERM, signal.SIGKILL):
            process = _waiting(mount.path(file))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)  # it waits
            process.send_signal(number)
            assert process.wait(20) == -number
    assert soon(lambda: is_free(mount.path(file))), "who was ended has not got it"


def test_a_process_that_is_killed_holds_nothing(mount: ShareMount, file: Path) -> None:
    program = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.flock(file, 2);"
        "other = open(sys.argv[1], 'r+'); fcntl.lockf(other, 2); print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(mount.path(file))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert not is_free(file, "flock") and not is_free(file, "lockf")
    process.kill()
    process.wait(20)
    assert soon(lambda: is_free(file, "flock") and is_free(file, "lockf"))


def test_one_that_was_shared_stays_so_where_it_cannot_be_made_exclusive(
    mount: ShareMount, file: Path
) -> None:
    with file.open("r+") as other, mount.path(file).open("r+") as holder:
        fcntl.flock(other, fcntl.LOCK_SH)
        fcntl.flock(holder, fcntl.LOCK_SH)
        with pytest.raises(BlockingIOError):
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_UN)
        assert not is_free(file), "it is the guest's still"


def _count(path: Path, times: int) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as database:
        for _ in range(times):
            database.execute("begin immediate")
            [[value]] = database.execute("select value from counter")
            database.execute("update counter set value = ?", (value + 1,))
            database.execute("commit")


def test_a_database_that_both_sides_write_loses_nothing(mount: ShareMount, file: Path) -> None:
    """With a rollback journal, for one in shared memory (WAL) is for programs of one computer."""
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("create table counter (value)")
        database.execute("insert into counter values (0)")
        database.commit()
    program = (
        "import sys; from pathlib import Path; from tests.unit.shares.test_locks import _count;"
        "_count(Path(sys.argv[1]), 40)"
    )
    sides = [
        subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=Path(__file__).parents[3])
        for path in (file, mount.path(file), mount.path(file))
    ]
    assert [side.wait(50) for side in sides] == [0, 0, 0]
    with contextlib.closing(sqlite3.connect(file)) as database:
        assert database.execute("select value from counter").fetchall() == [(120,)]


# -- when the server ends --------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [False, True])
def test_the_next_server_holds_what_the_last_did(mount: ShareMount, file: Path, killed: bool) -> None:
    guest = mount.path(file)
    with guest.open("r+") as one, guest.open("r+") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        fcntl.lockf(other, fcntl.LOCK_EX, 2, 3)
        (mount.kill_server if killed else mount.stop_server)()
        if not killed:
            assert not is_free(file), "whoever ends or suspends it keeps the locks"
        mount.start_server(fresh=False)
        mount.connect()
        assert not is_free(file, "flock") and not is_free(file, "lockf")
        fcntl.lockf(other, fcntl.LOCK_UN)
        assert is_free(file, "lockf")
    assert soon(lambda: is_free(file, "flock"))


def test_who_waits_goes_on_waiting_at_the_next_server(mount: ShareMount, file: Path) -> None:
    with file.open("r+") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        process = _waiting(mount.path(file))
        mount.kill_server()
        mount.start_server(fresh=False)
        mount.connect()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        fcntl.flock(holder, fcntl.LOCK_UN)
        assert process.wait(20) == 0


def test_one_that_the_host_took_meanwhile_is_lost_and_said_so(mount: ShareMount, file: Path) -> None:
    with mount.path(file).open("r+") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        mount.kill_server()
        with file.open("r+") as thief:
            assert soon(lambda: not fcntl.flock(thief, fcntl.LOCK_EX | fcntl.LOCK_NB))
            mount.start_server(fresh=False)
            mount.connect()
        assert "a lock of the guest's is lost" in (mount.folder / "server.log").read_text()
        assert is_free(file)


def test_closing_a_file_without_locks_asks_the_host_for_nothing(mount: ShareMount, file: Path) -> None:
    guest = mount.path(file)
    mount.settled()
    guest.read_text()
    folder = os.open(guest.parent, os.O_RDONLY)

    def read() -> None:
        os.close(os.open(guest.name, os.O_RDONLY, dir_fd=folder))

    read()
    before = mount.asked()
    for _ in range(5):
        read()
    assert mount.asked() == before
    os.close(folder)


def test_without_the_setting_the_guests_kernel_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    file = tmp_path / "root/file"
    file.write_text("x")
    with ShareMount(tmp_path, {tmp_path / "root": True}) as mount:
        guest = mount.path(file)
        end = time.monotonic() + 5
        with guest.open("r+") as one, guest.open("r+") as other:
            fcntl.flock(one, fcntl.LOCK_EX)
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert is_free(file), "nobody on the host is kept away"
        assert time.monotonic() < end
