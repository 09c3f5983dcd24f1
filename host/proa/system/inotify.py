"""inotify(7): files and folders that are watched by descriptor. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import select
import struct
import sys
import termios
from collections.abc import Callable, Sequence
from pathlib import Path

from proa.system.watching import CONTENT, NAMES, Change, Kind, TooManyWatchesError

assert sys.platform == "linux"

_EVENT = struct.Struct("iIII")  # linux/inotify.h, struct inotify_event: watch, mask, cookie, length of name
_ROOM = 256 << 10  # bytes of one read: some thousand events
# linux/inotify.h: what may be asked for besides kinds of changes.
_ONLY_FOLDERS, _NO_LINK, _NOT_UNLINKED, _BESIDES = 0x01000000, 0x02000000, 0x04000000, 0x20000000
_MORE = _NO_LINK | _NOT_UNLINKED | _BESIDES
# File systems whose changes are made on other computers, too; and any in user space, for who knows.
_ELSEWHERE = frozenset(
    (
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "drvfs", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs",
        "nfs4", "ocfs2", "orangefs", "prl_fs", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs",
    )
)  # fmt: skip
# Where `A` and `a` are one file, and its changes are told of one of the two only.
_OF_ANY_CASE = frozenset(("exfat", "hfs", "hfsplus", "msdos", "vfat"))
_UNMOUNTED = 0x2000  # linux/inotify.h: of what was watched, on a disk that went
_MOUNTS = "/proc/self/mountinfo"  # proc(5); poll(2) tells of each change
_ONLY_NAMES = NAMES | Kind.SELF_DELETED | Kind.SELF_MOVED
_ALL = _ONLY_NAMES | CONTENT


class Inotify:
    by_path = False

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._handle = self._library.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._handle < 0:
            raise _last_error("inotify")
        self._elsewhere: dict[int, bool] = {}  # device: somebody else may write there
        self._poll = select.poll()
        self._poll.register(self._handle, select.POLLIN)
        self._mounts = os.open(_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
        self._poll.register(self._mounts, select.POLLPRI)
        self._mounted = mount_points(self._table())

    def watch(self, parent: int, name: bytes, *, folder: bool, only_names: bool = False) -> int:
        # By the descriptor: a path could lead elsewhere by now.
        path = b"/proc/self/fd/%d/%s" % (parent, name)
        wanted = (_ONLY_NAMES if only_names else _ALL) | _MORE | (_ONLY_FOLDERS if folder else 0)
        number: int = self._library.inotify_add_watch(self._handle, path, ctypes.c_uint32(wanted))
        if number < 0:
            raise _last_error("fs.inotify.max_user_watches")
        return number

    def follow(self, roots: Sequence[bytes]) -> None:
        """Each folder is watched by itself."""

    def of_any_case(self, device: int) -> bool:
        return False  # not told all of

    def tells_all(self, device: int) -> bool:
        if device not in self._elsewhere:
            self._elsewhere[device] = is_elsewhere(self._table(), device)
        return not self._elsewhere[device]

    def unwatch(self, watch: int) -> None:
        self._library.inotify_rm_watch(self._handle, watch)  # fails for one that has ended by itself

    def read(self, timeout: float, begin: Callable[[], None] = lambda: None) -> list[Change]:
        ready = {number for number, _ in self._poll.poll(timeout * 1000)}
        found: list[Change] = []
        if ready:
            begin()
        if self._handle in ready:
            with contextlib.suppress(BlockingIOError):
                found = parse(os.read(self._handle, _ROOM))
        if self._mounts in ready:
            found += self._remounted()
        return found

    def has_unread(self) -> bool:
        size = bytearray(4)
        fcntl.ioctl(self._handle, termios.FIONREAD, size)
        return any(size)

    def _remounted(self) -> list[Change]:
        before, self._mounted = self._mounted, mount_points(self._table())
        self._elsewhere.clear()  # a device's number may be another's by now
        found = [Change(0, Kind.MOUNTED, point) for point, _ in sorted(before ^ self._mounted)]
        # One that came and went since the last look is in neither table, and one that took another's place
        # has its number: the lowest that is free.
        return [*found, *(Change(0, Kind.STAYED, point) for point, _ in sorted(before & self._mounted))]

    def _table(self) -> str:
        data = b""
        while part := os.pread(self._mounts, _ROOM, len(data)):
            data += part
        return data.decode(errors="surrogateescape")

    def close(self) -> None:
        os.close(self._handle)
        os.close(self._mounts)


def is_elsewhere(table: str, device: int) -> bool:
    """Whether a file system changes in ways that inotify does not tell, by /proc/self/mountinfo (proc(5)).

    What is not in the table is a part of one that is (a subvolume of btrfs has a number of its own).
    """
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in table.splitlines():
        words = line.split(" ")
        if len(words) > 6 and words[2] == wanted and "-" in words:
            kind = words[words.index("-", 6) + 1]
            return kind in _ELSEWHERE or kind in _OF_ANY_CASE or kind == "fuse" or kind.startswith("fuse.")
    return False


def mount_points(table: str) -> frozenset[tuple[bytes, str]]:
    """Where something is mounted, and which mount: a path and its number in /proc/self/mountinfo."""
    lines = [line.split(" ", 5) for line in table.splitlines()]
    return frozenset((_unescaped(words[4]), words[0]) for words in lines if len(words) == 6)


def _unescaped(path: str) -> bytes:
    """Blanks and the like are written in octal there."""
    plain = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
    return os.fsencode(plain)


def parse(data: bytes) -> list[Change]:
    """What inotify wrote; whole events, as it always writes them."""
    found, at = [], 0
    while at < len(data):
        watch, mask, cookie, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size
        # That a disk went is told by the table of mounts, with its path; here it has none.
        found.append(Change(watch, Kind(mask & ~_UNMOUNTED), data[at : at + length].rstrip(b"\0"), cookie))
        at += length
    return found


def _last_error(what: str) -> OSError:
    number = ctypes.get_errno()
    if number not in (errno.ENOSPC, errno.EMFILE):
        return OSError(number, os.strerror(number))
    return TooManyWatchesError(number, f"{what}: the system's limit is reached{_limit()}")


def _limit() -> str:
    try:
        most = int(Path("/proc/sys/fs/inotify/max_user_watches").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return ""
    return f" ({most}); sudo sysctl fs.inotify.max_user_watches={4 * most} allows more"
