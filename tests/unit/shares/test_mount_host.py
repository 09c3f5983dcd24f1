"""What the host sees of what the guest does, and the guest of the host: owners, changes, limits, cuts."""

from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.share_mounts import ShareMount, soon

pytestmark = [pytest.mark.timeout(60)]


# -- owners ----------------------------------------------------------------------------------------


def test_what_the_guest_sets_is_kept_beside_the_file(mount: ShareMount, host: Path) -> None:
    """As PostgreSQL makes its data folder, and then looks whether it is private."""
    guest = mount.path(host)
    (guest / "data").mkdir()
    os.chown(guest / "data", 999, 999)
    os.chmod(guest / "data", 0o700)
    (guest / "data/tool").write_text("x")
    os.chown(guest / "data/tool", 999, 999)
    os.chmod(guest / "data/tool", 0o4755)
    assert (host / "data").stat().st_uid == os.geteuid(), "on the host it is the user's"
    assert stat.S_IMODE((host / "data/tool").stat().st_mode) == 0o755, "and nothing is set-uid there"
    mount.stop_server()
    mount.start_server(fresh=False)
    mount.connect()
    found = (guest / "data").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (999, 999, 0o700)
    assert stat.S_IMODE((guest / "data/tool").stat().st_mode) == 0o4755


@pytest.mark.parametrize("ends", ["well", "killed", "broken"])
def test_what_no_file_can_hold_itself_outlives_a_cold_start(tmp_path: Path, ends: str) -> None:
    """A link and a pipe have no attributes of their own (as no file has on some disks): a table has them."""
    host = tmp_path / "root"
    for folder in (host, tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
    one, two = ShareMount(tmp_path / "one", {host: True}), ShareMount(tmp_path / "two", {host: True})
    two.state = one.state
    with one:
        guest = one.path(host)
        os.symlink("x", guest / "link")
        os.mkfifo(guest / "pipe", 0o600)
        os.symlink("x", guest / "gone")
        for name in ("link", "pipe", "gone"):
            os.chown(guest / name, 12, 34, follow_symlinks=False)
        os.chmod(guest / "pipe", 0o4640)
        os.unlink(guest / "gone")
        (one.kill_server if ends == "killed" else one.stop_server)()
    if ends == "broken":
        one.state.write_text("not a state")
    with two:
        guest = two.path(host)
        link, pipe = os.lstat(guest / "link"), os.lstat(guest / "pipe")
        if ends == "broken":
            assert link.st_uid == os.geteuid()
            assert f"{one.state}: " in (two.folder / "server.log").read_text()
        else:
            assert (link.st_uid, link.st_gid) == (12, 34)
            assert (pipe.st_uid, stat.S_IMODE(pipe.st_mode)) == (12, 0o4640)
            two.stop_server()
            two.start_server(fresh=False)
            two.connect()
            assert os.lstat(guest / "link").st_gid == 34


def test_a_file_that_nobody_may_read_is_still_the_users(mount: ShareMount, host: Path) -> None:
    (mount.path(host) / "locked").write_text("x")
    os.chmod(mount.path(host) / "locked", 0)
    assert stat.S_IMODE((mount.path(host) / "locked").stat().st_mode) == 0
    assert stat.S_IMODE((host / "locked").stat().st_mode) == 0o600


def test_the_hosts_later_word_on_rights_counts(mount: ShareMount, host: Path) -> None:
    (mount.path(host) / "script").write_text("x")
    os.chmod(mount.path(host) / "script", 0o4750)
    os.chmod(host / "script", 0o711)
    assert soon(lambda: stat.S_IMODE((mount.path(host) / "script").stat().st_mode) == 0o711)


def test_files_are_the_users_where_that_is_set(mount: ShareMount, host: Path) -> None:
    (mount.path(host) / "before").write_text("x")
    os.chown(mount.path(host) / "before", 999, 999)
    assert (mount.path(host) / "before").stat().st_uid == 999
    mount.owner = "user"
    mount.configure()
    try:
        (mount.path(host) / "a").write_text("x")
        os.chown(mount.path(host) / "a", 999, 999)
        assert (mount.path(host) / "a").stat().st_uid == os.geteuid()
        assert soon(lambda: (mount.path(host) / "before").stat().st_uid == os.geteuid())
    finally:
        mount.owner = "keep"
        mount.configure()
    assert soon(lambda: (mount.path(host) / "before").stat().st_uid == 999)


# -- changes on the host ---------------------------------------------------------------------------


def test_a_change_on_the_host_is_seen_at_once(mount: ShareMount, host: Path) -> None:
    guest = mount.path(host)
    (host / "a").write_text("one")
    assert (guest / "a").read_text() == "one"
    (host / "a").write_text("two!")
    assert soon(lambda: (guest / "a").read_text() == "two!")
    (host / "new").write_text("new")
    os.replace(host / "new", host / "a")
    assert soon(lambda: (guest / "a").read_text() == "new")
    (host / "a").unlink()
    assert soon(lambda: not (guest / "a").exists())
    (host / "a").mkdir()
    assert soon(lambda: (guest / "a").is_dir())
    (host / "a").rename(host / "b")
    assert soon(lambda: os.listdir(guest) == ["b"])


def test_a_file_replaced_on_the_host_stays_open_in_the_guest(mount: ShareMount, host: Path) -> None:
    (host / "a").write_text("old")
    with (mount.path(host) / "a").open() as file:
        (host / "new").write_text("new")
        os.replace(host / "new", host / "a")
        assert file.read() == "old"
    assert soon(lambda: (mount.path(host) / "a").read_text() == "new")


def test_a_folder_moved_on_the_host_is_found_again(mount: ShareMount, host: Path) -> None:
    (host / "a/b").mkdir(parents=True)
    (host / "a/b/file").write_text("x")
    guest = mount.path(host)
    assert (guest / "a/b/file").read_text() == "x"
    (host / "a").rename(host / "moved")
    assert soon(lambda: not (guest / "a/b/file").exists())
    assert soon(lambda: (guest / "moved/b/file").read_text() == "x")


# -- limits ----------------------------------------------------------------------------------------


def test_only_the_way_to_shares_is_there(mount: ShareMount) -> None:
    root = next(iter(mount.roots))
    above = mount.path(root.parent)
    assert sorted(os.listdir(above)) == ["read-only", "root"]
    assert not (above / "root-evil").exists(), "a neighbour whose name begins the same"
    for refused in (lambda: (above / "new").mkdir(), lambda: (above / "root").rename(above / "elsewhere")):
        with pytest.raises(OSError, match=r"Read-only|cross-device|not permitted"):
            refused()
    assert not (mount.place / "etc").exists()


@pytest.mark.parametrize(
    "attempt",
    (
        lambda keys: (keys / "secret").read_text(),
        lambda keys: os.listdir(keys),
        lambda keys: keys.rename(keys.parent / "mine"),
        lambda keys: (keys.parent / "link").symlink_to(keys) or os.listdir(keys.parent / "link"),
        lambda keys: keys.rmdir(),
        lambda keys: (keys.parent / "not-yet").mkdir(),
        lambda keys: (keys.parent / "not-yet").symlink_to("keys"),
    ),
)
def test_what_is_never_shared_is_out_of_reach(mount: ShareMount, attempt: Callable[[Path], object]) -> None:
    root = next(iter(mount.roots))
    with pytest.raises(PermissionError):
        attempt(mount.path(root) / "keys")
    assert "keys" not in os.listdir(mount.path(root))
    assert (root / "keys/secret").read_text() == "secret"


def test_a_share_for_reading_cannot_be_changed(mount: ShareMount) -> None:
    folder = mount.path(list(mount.roots)[1])
    assert (folder / "there").read_text() == "there"
    for change in (
        lambda: (folder / "there").write_text("x"),
        lambda: (folder / "there").unlink(),
        lambda: os.chmod(folder / "there", 0o777),
        lambda: os.truncate(folder / "there", 0),
        lambda: os.utime(folder / "there"),
        lambda: os.setxattr(folder / "there", "user.x", b""),
        lambda: (folder / "new").mkdir(),
    ):
        with pytest.raises(OSError, match="Read-only"):
            change()


def test_no_device_can_be_made(mount: ShareMount, host: Path) -> None:
    with pytest.raises(PermissionError):
        os.mknod(mount.path(host) / "disk", stat.S_IFBLK | 0o666, os.makedev(8, 0))


def test_a_share_that_is_taken_away_is_closed(mount: ShareMount, host: Path) -> None:
    (host / "a").write_text("open")
    root = next(iter(mount.roots))
    with (mount.path(host) / "a").open("r+") as file:
        before = dict(mount.roots)
        del mount.roots[root]
        mount.configure()
        try:
            with pytest.raises(PermissionError):
                os.pwrite(file.fileno(), b"more", 0)
            with pytest.raises(OSError):
                os.listdir(mount.path(host))
        finally:
            mount.roots = before
            mount.configure()
        assert file.read() == "open", "and is there again when it is shared again"


# -- cuts ------------------------------------------------------------------------------------------

_WRITER = """
import os, sys
folder, count, content, writes = sys.argv[1], int(sys.argv[2]), *map(int, sys.argv[3:])
for number in range(count):
    made = f"{folder}/{number}"
    os.mkdir(made)
    with open(f"{made}/file", "xb", buffering=0) as file:
        for write in range(writes):
            file.write(b"%07d|" % (number + write) * content)
    os.rename(f"{made}/file", f"{made}/done")
    os.symlink("done", f"{made}/link")
    if number % 3 == 0:
        os.unlink(f"{made}/link")
print("ok")
"""


# Pieces of 8 bytes in a write, and writes, of each writer: large ones are read into another place.
_CONTENT = ((125, 1), (125, 1), (12_500, 4), (100_000, 3))
_MANY = pytest.param("kill", 100, marks=[pytest.mark.long, pytest.mark.timeout(240)])


@pytest.mark.parametrize(("what", "times"), (("cut", 5), ("end", 5), ("kill", 5), _MANY))
def test_nothing_is_lost_or_done_twice_in_a_cut(mount: ShareMount, host: Path, what: str, times: int) -> None:
    """The stream is cut, or the server ends or is killed and another goes on, while others write."""
    count, writers = 12 * times, []
    for number in range(4):
        (host / str(number)).mkdir()
        place = mount.path(host) / str(number)
        argv = [sys.executable, "-c", _WRITER, place, *map(str, (count, *_CONTENT[number]))]
        writers.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    waits = [threading.Thread(target=writer.wait) for writer in writers]
    for wait in waits:
        wait.start()
    for _ in range(times):
        waits[0].join(0.1 + 0.05 * random.random())  # something is to be under way
        if what != "cut":
            {"end": mount.stop_server, "kill": mount.kill_server}[what]()
            mount.start_server(fresh=False)
        mount.connect()
    for number, writer in enumerate(writers):
        out, err = writer.communicate(timeout=120)
        assert out == b"ok\n", f"writer {number}: {err.decode()}"
        pieces, writes = _CONTENT[number]
        for made in range(count):
            expected = b"".join(b"%07d|" % (made + write) * pieces for write in range(writes))
            assert (host / f"{number}/{made}/done").read_bytes() == expected
            assert (host / f"{number}/{made}/link").is_symlink() == bool(made % 3)


_HOLDER = """
import os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.write(file, b"before")
print("open", flush=True)
sys.stdin.readline()
try:
    os.pwrite(file, b"astray", 0)
except OSError as error:
    print(error.errno, flush=True)
"""


@pytest.mark.parametrize("state", (None, b"{", b'{"format": 99}'), ids=("none", "torn", "newer"))
def test_what_a_killed_server_had_open_never_stands_for_another_file(
    mount: ShareMount, host: Path, state: bytes | None
) -> None:
    guest = mount.path(host)
    # Another process has it: ours could not start the next server, whose start closes what we have open.
    argv = [sys.executable, "-c", _HOLDER, str(guest / "old")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        mount.kill_server()
        mount.state.unlink()
        if state is not None:
            mount.state.write_bytes(state)
        mount.start_server(fresh=False)
        mount.connect()
        with (guest / "new").open("wb") as new:
            new.write(b"content")
            new.flush()
            out, _ = holder.communicate(b"\n", timeout=30)
        assert int(out) == errno.EBADF
    assert (host / "new").read_bytes() == b"content"
    assert (guest / "old").read_bytes() == b"before"
