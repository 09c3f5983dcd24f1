"""What a mount does is what a plain folder does: each check runs on both, and the results are compared."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.share_mounts import ShareMount, outcome

pytestmark = [pytest.mark.timeout(60)]

Check = Callable[[Path], Any]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def facts(path: Path) -> tuple[Any, ...]:
    found = path.lstat()
    return stat.filemode(found.st_mode), found.st_size, found.st_nlink, found.st_uid, found.st_gid


def _become(user: int, at: Path) -> None:
    """Another user in that folder, whose parents are root's only."""
    os.chdir(at)
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


@check
def write_and_read(at: Path) -> Any:
    (at / "a").write_bytes(b"x" * 300_000)
    return (at / "a").read_bytes() == b"x" * 300_000, facts(at / "a")


@check
def open_flags(at: Path) -> Any:
    (at / "there").write_text("there")
    found = []
    for name in ("there", "missing"):
        for extra in (0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_DIRECTORY, os.O_NOFOLLOW):
            for access in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):

                def opened(name: str = name, flags: int = extra | access) -> str:
                    os.close(os.open(at / name, flags))
                    return "ok"

                found.append(outcome(opened))
                if (at / "missing").exists():
                    (at / "missing").unlink()
    return found, (at / "there").read_text()


@check
def append_goes_to_the_end(at: Path) -> Any:
    first, second = (os.open(at / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND) for _ in range(2))
    for number in range(50):
        os.write((first, second)[number % 2], b"%d\n" % number)
    os.pwrite(first, b"positioned", 0)
    os.close(first)
    os.close(second)
    return (at / "log").read_bytes()


@check
def truncate(at: Path) -> Any:
    (at / "a").write_bytes(b"0123456789")
    os.truncate(at / "a", 4)
    short = (at / "a").read_bytes()
    os.truncate(at / "a", 8)
    return short, (at / "a").read_bytes(), outcome(lambda: os.truncate(at, 0))


@check
def links(at: Path) -> Any:
    (at / "a").write_text("a")
    os.link(at / "a", at / "b")
    (at / "c").symlink_to("b")
    (at / "dangling").symlink_to("nowhere")
    same = (at / "a").stat().st_ino == (at / "b").stat().st_ino
    (at / "a").unlink()
    return (
        same, facts(at / "b"), (at / "c").read_text(), os.readlink(at / "dangling"),
        outcome(lambda: os.link(at, at / "folder-link")), outcome(lambda: os.link(at / "b", at / "c")),
    )  # fmt: skip


@check
def renames(at: Path) -> Any:
    for name in "abc":
        (at / name).write_text(name)
    (at / "full").mkdir()
    (at / "full/x").write_text("x")
    (at / "empty").mkdir()
    os.rename(at / "a", at / "b")
    pairs = (
        ("b", "empty"), ("empty", "b"), ("empty", "full"), ("full", "empty"), ("missing", "z"),
        ("empty", "empty/x"),
    )  # fmt: skip
    found = [outcome(lambda one=one, two=two: os.rename(at / one, at / two)) for one, two in pairs]
    return sorted(os.listdir(at)), found, (at / "b").read_text(), (at / "empty/x").read_text()


@check
def rename_flags(at: Path) -> Any:
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)

    def renamed(a: str, b: str, flags: int) -> str:
        if library.renameat2(-100, bytes(at / a), -100, bytes(at / b), flags):
            return errno.errorcode[ctypes.get_errno()]
        return "ok"

    (at / "a").write_text("a")
    (at / "b").mkdir()
    (at / "b/inside").write_text("inside")
    found = [renamed("a", "b", 1), renamed("a", "b", 2), renamed("a", "new", 1), renamed("x", "y", 2)]
    return found, (at / "b").read_text(), (at / "new/inside").read_text(), sorted(os.listdir(at))


@check
def two_names_of_one_file(at: Path) -> Any:
    (at / "a").write_text("a")
    os.link(at / "a", at / "b")
    os.rename(at / "a", at / "b")
    return sorted(os.listdir(at)), facts(at / "b")


@check
def gone_while_open(at: Path) -> Any:
    with (at / "a").open("w+b") as file:
        file.write(b"first")
        file.flush()
        (at / "a").unlink()
        (at / "a").write_text("second")
        file.write(b" and more")
        file.flush()
        os.ftruncate(file.fileno(), 12)
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        return file.read(), size, os.fstat(file.fileno()).st_nlink, (at / "a").read_text()


@check
def replaced_while_open(at: Path) -> Any:
    (at / "a").write_text("old")
    (at / "new").write_text("new")
    with (at / "a").open() as file:
        os.rename(at / "new", at / "a")
        return file.read(), (at / "a").read_text()


@check
def folders(at: Path) -> Any:
    (at / "d").mkdir(mode=0o750)
    (at / "d/e").mkdir()
    return (
        facts(at / "d")[0], outcome(lambda: (at / "d").rmdir()), outcome(lambda: (at / "d").mkdir()),
        outcome(lambda: (at / "d/e").rmdir()), outcome(lambda: (at / "d").unlink()),
        outcome(lambda: os.rmdir(at / "missing")), (at / "d").stat().st_nlink,
    )  # fmt: skip


@check
def modes_and_umask(at: Path) -> Any:
    before = os.umask(0o027)
    try:
        os.close(os.open(at / "a", os.O_CREAT | os.O_WRONLY, 0o777))
        os.mkdir(at / "d", 0o777)
        os.mkfifo(at / "f", 0o666)
    finally:
        os.umask(before)
    found = [facts(at / name)[0] for name in ("a", "d", "f")]
    for mode in (0o000, 0o400, 0o644, 0o755, 0o1777, 0o2755, 0o4755, 0o6711):
        os.chmod(at / "a", mode)
        found.append(facts(at / "a")[0])
    return found


@check
def owners(at: Path) -> Any:
    (at / "a").write_text("a")
    (at / "l").symlink_to("a")
    os.chmod(at / "a", 0o6755)
    os.chown(at / "a", 999, 998)
    os.chown(at / "l", 5, 6, follow_symlinks=False)
    cleared = facts(at / "a")
    os.chown(at / "a", -1, 7)
    return cleared, facts(at / "a"), facts(at / "l")[3:]


@check
def group_of_a_folder(at: Path) -> Any:
    (at / "d").mkdir()
    os.chown(at / "d", 0, 777)
    os.chmod(at / "d", 0o2775)
    (at / "d/a").write_text("a")
    (at / "d/e").mkdir()
    return facts(at / "d/a")[3:], facts(at / "d/e")[0], facts(at / "d/e")[3:]


@check
def another_user(at: Path) -> Any:
    """Rights hold for whoever is not root."""
    (at / "private").write_text("x")
    os.chmod(at / "private", 0o600)
    (at / "open").mkdir()
    os.chmod(at / "open", 0o777)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(1234, at)
        found = [
            outcome(lambda: Path("private").read_text()),
            outcome(lambda: Path("new").write_text("x")),
            outcome(lambda: Path("open/mine").write_text("x")),
            outcome(lambda: os.chmod("private", 0o777)),
            outcome(lambda: os.chown("open/mine", 0, 0)),
            outcome(lambda: os.chmod("open/mine", 0o640)),
        ]
        os.write(writer, repr(found).encode())
        os._exit(0)
    os.close(writer)
    told = os.read(reader, 4096)
    os.close(reader)
    os.waitpid(pid, 0)
    return told, facts(at / "open/mine")


@check
def a_write_takes_privileges(at: Path) -> Any:
    (at / "a").write_text("a")
    os.chmod(at / "a", 0o6755)
    os.chown(at / "a", 1234, 1234)
    os.chmod(at / "a", 0o6755)
    pid = os.fork()
    if pid == 0:
        _become(1234, at)
        Path("a").write_text("b")
        os._exit(0)
    os.waitpid(pid, 0)
    return facts(at / "a")


@check
def times(at: Path) -> Any:
    (at / "a").write_text("a")
    found = []
    for pair in ((1, 2), (1_234_567_890_123_456_789, 987_654_321_000_000_001), (-(10**9), -3 * 10**9 + 5)):
        os.utime(at / "a", ns=pair)
        now = (at / "a").stat()
        found.append((now.st_atime_ns, now.st_mtime_ns))
    return found


@check
def attributes(at: Path) -> Any:
    (at / "a").write_text("a")
    os.setxattr(at / "a", "user.one", b"1")
    os.setxattr(at / "a", "user.two", b"\0" * 100)
    found = [sorted(os.listxattr(at / "a")), os.getxattr(at / "a", "user.one")]
    found.append(outcome(lambda: os.setxattr(at / "a", "user.one", b"", os.XATTR_CREATE)))
    found.append(outcome(lambda: os.setxattr(at / "a", "user.three", b"", os.XATTR_REPLACE)))
    os.removexattr(at / "a", "user.one")
    found.append(outcome(lambda: os.getxattr(at / "a", "user.one")))
    found.append(outcome(lambda: os.removexattr(at / "a", "user.one")))
    found.append(outcome(lambda: os.getxattr(at / "a", "security.capability")))
    return [*found, os.listxattr(at / "a")]


@check
def allocate_and_holes(at: Path) -> Any:
    with (at / "a").open("w+b") as file:
        os.posix_fallocate(file.fileno(), 0, 100_000)
        size = os.fstat(file.fileno()).st_size
        os.ftruncate(file.fileno(), 5 << 30)
        os.pwrite(file.fileno(), b"end", (5 << 30) - 3)
        data = os.lseek(file.fileno(), 1 << 30, os.SEEK_DATA)
        hole = os.lseek(file.fileno(), data, os.SEEK_HOLE)
        beyond = outcome(lambda: os.lseek(file.fileno(), 6 << 30, os.SEEK_DATA))
        return size, data, hole, beyond, os.pread(file.fileno(), 10, (5 << 30) - 3)


@check
def copy_within(at: Path) -> Any:
    (at / "a").write_bytes(bytes(range(256)) * 1000)
    with (at / "a").open("rb") as source, (at / "b").open("wb") as target:
        done = 0
        while done < 256_000:
            count = os.copy_file_range(source.fileno(), target.fileno(), 256_000 - done)
            assert count > 0
            done += count
    return done, (at / "b").read_bytes() == (at / "a").read_bytes()


@check
def shared_memory_map(at: Path) -> Any:
    (at / "a").write_bytes(bytes(10_000))
    with (at / "a").open("r+b") as file:
        with mmap.mmap(file.fileno(), 10_000) as view:
            view[5000:5005] = b"hello"
            view.flush()
        return os.pread(file.fileno(), 5, 5000), (at / "a").read_bytes()[4999:5006]


@check
def a_full_listing(at: Path) -> Any:
    names = [f"{number:04}-{'n' * (number % 200)}" for number in range(600)]
    for name in names:
        os.close(os.open(at / name, os.O_CREAT | os.O_WRONLY))
    found = sorted(os.listdir(at)) == sorted(names)
    kinds = {entry.is_file() for entry in os.scandir(at)}
    for name in names[::2]:
        os.unlink(at / name)
    return found, kinds, len(os.listdir(at))


@check
def names_of_every_byte(at: Path) -> Any:
    names = [bytes([byte]) + b"x" for byte in range(1, 256) if byte != ord("/")] + [b"y" * 255, b"..a", b". "]
    for name in names:
        os.close(os.open(os.path.join(os.fsencode(at), name), os.O_CREAT | os.O_WRONLY))
    too_long = outcome(lambda: os.mkdir(os.path.join(os.fsencode(at), b"z" * 256)))
    return sorted(os.listdir(os.fsencode(at))) == sorted(names), too_long


@check
def special_files(at: Path) -> Any:
    os.mkfifo(at / "pipe")
    pid = os.fork()
    if pid == 0:
        (at / "pipe").write_bytes(b"through")
        os._exit(0)
    through = (at / "pipe").read_bytes()
    os.waitpid(pid, 0)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        here = os.getcwd()
        os.chdir(at)  # its path may be too long for a socket
        try:
            server.bind("s")
            server.listen()
            client.connect("s")
        finally:
            os.chdir(here)
    return through, facts(at / "pipe")[0], facts(at / "s")[0]


@check
def locks_between_processes(at: Path) -> Any:
    found = []
    with (at / "a").open("w+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        with (at / "b").open("w+b") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                with (at / "a").open("r+b") as a, (at / "b").open("r+b") as b:
                    tried = [
                        outcome(lambda: fcntl.lockf(a, fcntl.LOCK_EX | fcntl.LOCK_NB)),
                        outcome(lambda: fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)),
                    ]
                os.write(writer, repr(tried).encode())
                os._exit(0)
            os.close(writer)
            found.append(os.read(reader, 4096))
            os.close(reader)
            os.waitpid(pid, 0)
    return found


@check
def synced(at: Path) -> Any:
    with (at / "a").open("wb") as file:
        file.write(b"x" * 5000)
        file.flush()
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    folder = os.open(at, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    return facts(at / "a")


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_it_behaves_as_a_plain_folder(name: str, mount: ShareMount, tmp_path: Path) -> None:
    host = next(iter(mount.roots)) / name
    host.mkdir()
    plain = tmp_path / "plain"
    plain.mkdir()
    assert CHECKS[name](mount.path(host)) == CHECKS[name](plain)
