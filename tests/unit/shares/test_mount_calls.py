"""Every call on every kind of file, and with every right: the same results and errors as on a plain folder,
and the same tree afterwards."""

from __future__ import annotations

import errno
import itertools
import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.share_mounts import ShareMount, outcome

pytestmark = [pytest.mark.timeout(60)]

LONGEST = "n" * 255
# What a call is made on, in a folder that `_furnish` has filled.
KINDS = (
    "file", "empty", "second-name", "folder", "full", "pipe", "socket", "to-file", "to-folder", "to-full",
    "dangling", "loop", "chain", "missing", "file/below", "full/inside", "full/missing", "missing/below",
    "to-full/inside", "dangling/below", "loop/below", "full/", "file/", "to-folder/", "full/.", "full/..",
    LONGEST, LONGEST + "n", "",
)  # fmt: skip

Call = Callable[[str], Any]


def _opened(flags: int) -> Call:
    def call(path: str) -> Any:
        handle = os.open(path, flags | os.O_NONBLOCK, 0o640)
        try:
            return stat.filemode(os.fstat(handle).st_mode), os.fstat(handle).st_size
        finally:
            os.close(handle)

    return call


def _stat(path: str, *, follow: bool = True) -> Any:
    found = os.stat(path, follow_symlinks=follow)
    return stat.filemode(found.st_mode), found.st_nlink, found.st_uid


CALLS: dict[str, Call] = {
    "stat": _stat,
    "lstat": lambda path: _stat(path, follow=False),
    "access": lambda path: [os.access(path, mode) for mode in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)],
    "readlink": os.readlink,
    "list": lambda path: sorted(os.listdir(path)),
    "chdir": lambda path: os.close(os.open(path, os.O_PATH | os.O_DIRECTORY)),
    "statvfs": lambda path: os.statvfs(path).f_namemax,
    "open for reading": _opened(os.O_RDONLY),
    "open for writing": _opened(os.O_WRONLY),
    "open for both": _opened(os.O_RDWR),
    "open to append": _opened(os.O_WRONLY | os.O_APPEND | os.O_CREAT),
    "open to truncate": _opened(os.O_WRONLY | os.O_TRUNC),
    "open or create": _opened(os.O_RDWR | os.O_CREAT),
    "create": _opened(os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    "open a folder": _opened(os.O_RDONLY | os.O_DIRECTORY),
    "open no link": _opened(os.O_RDONLY | os.O_NOFOLLOW),
    "open a path": _opened(os.O_PATH | os.O_NOFOLLOW),
    "read": lambda path: _read(path),
    "write": lambda path: _write(path, b"new content"),
    "mkdir": lambda path: os.mkdir(path, 0o751),
    "mkfifo": lambda path: os.mkfifo(path, 0o641),
    "symlink": lambda path: os.symlink("some/where", path),
    "rmdir": os.rmdir,
    "unlink": os.unlink,
    "rename away": lambda path: os.rename(path, "away"),
    "rename onto a file": lambda path: os.rename(path, "other"),
    "rename onto a folder": lambda path: os.rename(path, "other-folder"),
    "rename into a folder": lambda path: os.rename(path, "other-folder/in"),
    "rename below itself": lambda path: os.rename(path, path + "/in"),
    "replace by a file": lambda path: os.rename("other", path),
    "replace by a folder": lambda path: os.rename("other-folder", path),
    "link to": lambda path: os.link(path, "linked", follow_symlinks=False),
    "link to its end": lambda path: os.link(path, "linked", follow_symlinks=True),
    "link from": lambda path: os.link("other", path),
    "chmod": lambda path: os.chmod(path, 0o615),
    "chown": lambda path: os.chown(path, 12, 34),
    "lchown": lambda path: os.chown(path, 12, 34, follow_symlinks=False),
    "truncate": lambda path: os.truncate(path, 3),
    "lengthen": lambda path: os.truncate(path, 10_000),
    "utime": lambda path: os.utime(path, (5, 6)),
    "lutime": lambda path: os.utime(path, (5, 6), follow_symlinks=False),
    "setxattr": lambda path: os.setxattr(path, "user.x", b"value"),
    "getxattr": lambda path: os.getxattr(path, "user.there"),
    "listxattr": os.listxattr,
    "removexattr": lambda path: os.removexattr(path, "user.there"),
}


def _read(path: str) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(handle, 100)
    finally:
        os.close(handle)


def _write(path: str, content: bytes) -> int:
    handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        return os.write(handle, content)
    finally:
        os.close(handle)


def _furnish() -> None:
    """Fill the current folder."""
    for name, content in (("file", "content"), ("empty", ""), ("other", "other"), (LONGEST, "long")):
        Path(name).write_text(content)
    os.link("other", "second-name")
    for name in ("folder", "full", "other-folder"):
        os.mkdir(name)
    Path("full/inside").write_text("inside")
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    links = (
        ("to-file", "file"), ("to-folder", "folder"), ("to-full", "full"), ("dangling", "nowhere"),
        ("loop", "loop"), ("chain", "to-file"),
    )  # fmt: skip
    for name, target in links:
        os.symlink(target, name)
    for name in ("file", "full"):
        os.setxattr(name, "user.there", b"there")


def _tree() -> list[Any]:
    """All that the current folder holds."""
    found: list[Any] = []
    for folder, names, others in os.walk("."):
        for name in sorted(names + others):
            path = os.path.join(folder, name)
            facts = os.lstat(path)
            content: Any = None
            if stat.S_ISREG(facts.st_mode):
                content = Path(path).read_bytes()
            elif stat.S_ISLNK(facts.st_mode):
                content = os.readlink(path)
            times = int(facts.st_mtime) if facts.st_mtime < 100 else None
            attributes = [] if stat.S_ISLNK(facts.st_mode) else sorted(os.listxattr(path))
            found.append((
                path, stat.filemode(facts.st_mode), facts.st_nlink, facts.st_uid, facts.st_gid, times,
                attributes, content,
            ))  # fmt: skip
    return sorted(found)


def _everywhere(call: Call, top: Path) -> dict[str, Any]:
    """What it does on each kind: its result, and the tree it leaves; a new one after each that changed it."""
    found = {}
    before: list[Any] = []
    folders = (top / str(number) for number in itertools.count())
    here, mask = os.open(".", os.O_PATH), os.umask(0o022)
    try:
        for kind in KINDS:
            if not before:
                folder = next(folders)
                folder.mkdir()
                os.chdir(folder)
                _furnish()
                before = _tree()
            result, after = outcome(call, kind), _tree()
            found[kind] = result, after
            before = after if after == before else []
    finally:
        os.umask(mask)
        os.fchdir(here)
        os.close(here)
    return found


@pytest.mark.parametrize("name", CALLS)
def test_a_call(name: str, mount: ShareMount, tmp_path: Path) -> None:
    host = next(iter(mount.roots)) / name
    host.mkdir()
    plain = _everywhere(CALLS[name], tmp_path)
    told = _everywhere(CALLS[name], mount.path(host))
    assert {kind: told[kind][0] for kind in told} == {kind: plain[kind][0] for kind in plain}
    assert told == plain
    assert _contents(host) == _contents(tmp_path), "and so it is on the host"


def test_there_are_no_files_without_a_name(mount: ShareMount) -> None:
    """So they are told, and make one with a name."""
    with pytest.raises(OSError) as refused:
        _opened(os.O_TMPFILE | os.O_RDWR)(os.fspath(mount.path(next(iter(mount.roots)))))
    assert refused.value.errno == errno.EOPNOTSUPP


def _contents(top: Path) -> dict[Path, Any]:
    return {
        path.relative_to(top): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in top.rglob("*")
        if path.is_symlink() or path.is_file()
    }


# -- rights ----------------------------------------------------------------------------------------

USERS = {"root": (0, 0), "owner": (1234, 99), "group": (4321, 99), "other": (4321, 4321)}
MODES = (0o000, 0o111, 0o222, 0o333, 0o444, 0o555, 0o700, 0o070, 0o007, 0o770, 0o1777, 0o1770, 0o2777)
IN_A_FOLDER: dict[str, Call] = {
    "list": lambda top: sorted(os.listdir(top)),
    "enter": lambda top: os.close(os.open(top, os.O_PATH | os.O_DIRECTORY)),
    "look": lambda top: _stat(f"{top}/mine"),
    "access": lambda top: [os.access(top, mode) for mode in (os.R_OK, os.W_OK, os.X_OK)],
    "read": lambda top: _read(f"{top}/mine"),
    "write": lambda top: _write(f"{top}/others", b"written"),
    "make": lambda top: _opened(os.O_CREAT | os.O_EXCL | os.O_WRONLY)(f"{top}/made"),
    "mkdir": lambda top: os.mkdir(f"{top}/folder"),
    "symlink": lambda top: os.symlink("x", f"{top}/link"),
    "link": lambda top: os.link(f"{top}/mine", f"{top}/second"),
    "unlink mine": lambda top: os.unlink(f"{top}/mine"),
    "unlink others": lambda top: os.unlink(f"{top}/others"),
    "rename others": lambda top: os.rename(f"{top}/others", f"{top}/renamed"),
    "rmdir others": lambda top: os.rmdir(f"{top}/empty"),
    "chmod others": lambda top: os.chmod(f"{top}/others", 0o600),
    "chown to me": lambda top: os.chown(f"{top}/others", os.geteuid(), -1),
    "chgrp mine": lambda top: os.chown(f"{top}/mine", -1, os.getegid()),
    "set times": lambda top: os.utime(f"{top}/others"),
    "set other times": lambda top: os.utime(f"{top}/others", (1, 2)),
    "chmod the folder": lambda top: os.chmod(top, 0o755),
    "setxattr": lambda top: os.setxattr(f"{top}/others", "user.x", b"x"),
}


def _allowed(at: Path, user: tuple[int, int]) -> dict[str, Any]:
    """What each call does there for that user, in a folder of each mode that belongs to `owner`."""
    at.mkdir()
    at.chmod(0o755)
    for mode, name in itertools.product(MODES, IN_A_FOLDER):
        folder = at / f"{mode:o} {name}"
        (folder / "empty").mkdir(parents=True)
        for file, owner, rights in (("mine", user, 0o640), ("others", (77, 99), 0o664)):
            (folder / file).write_text(file)
            os.chown(folder / file, *owner)
            os.chmod(folder / file, rights)
        os.chown(folder / "empty", 77, 99)
        os.chown(folder, *USERS["owner"])
        os.chmod(folder, mode)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _tell_as(user, at, writer)
    os.close(writer)
    with os.fdopen(reader) as told:
        found: dict[str, Any] = json.load(told)
    os.waitpid(pid, 0)
    return found


def _tell_as(user: tuple[int, int], at: Path, writer: int) -> None:
    """In a process of its own, which ends here."""
    try:
        os.chdir(at)
        os.setgroups([])
        os.setgid(user[1])
        os.setuid(user[0])
        found = {}
        for mode, name in itertools.product(MODES, IN_A_FOLDER):
            top = f"{mode:o} {name}"
            result = outcome(IN_A_FOLDER[name], top)
            found[top] = result.decode() if isinstance(result, bytes) else result
        with os.fdopen(writer, "w") as told:
            json.dump(found, told)
    finally:
        os._exit(0)


# Each takes seconds; all of them are tried in the long run.
_DAILY = {"other"}


@pytest.mark.parametrize(
    "user", [user if user in _DAILY else pytest.param(user, marks=pytest.mark.long) for user in USERS]
)
def test_rights(user: str, mount: ShareMount, tmp_path: Path) -> None:
    host = next(iter(mount.roots)) / f"rights-{user}"
    for above in host.parents:
        if above.is_relative_to(mount.folder):
            above.chmod(0o755)
    plain = _allowed(tmp_path / "plain", USERS[user])
    assert _allowed(mount.path(host), USERS[user]) == plain
