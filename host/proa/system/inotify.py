"""inotify(7): files and folders that are watched by descriptor. Linux only."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import sys
from pathlib import Path

from proa.system.watching import CONTENT, NAMES, Change, Kind, TooManyWatchesError

assert sys.platform == "linux"

_EVENT = struct.Struct("iIII")  # linux/inotify.h, struct inotify_event: watch, mask, cookie, length of name
_ROOM = 256 << 10  # bytes of one read: some thousand events
# linux/inotify.h: what may be asked for besides kinds of changes.
_ONLY_FOLDERS, _NO_LINK, _NOT_UNLINKED = 0x01000000, 0x02000000, 0x04000000
# File systems whose changes are made on other computers, too; and any in user space, for who knows.
_ELSEWHERE = frozenset(
    (
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "drvfs", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs",
        "nfs4", "ocfs2", "orangefs", "prl_fs", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs",
    )
)  # fmt: skip
_ALL = CONTENT | NAMES | Kind.SELF_DELETED | Kind.SELF_MOVED


class Inotify:
    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._handle = self._library.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._handle < 0:
            raise _last_error("inotify")
        self._elsewhere: dict[int, bool] = {}  # device: somebody else may write there
        self._poll = select.poll()
        self._poll.register(self._handle, select.POLLIN)

    def watch(self, parent: int, name: bytes, *, folder: bool) -> int:
        # By the descriptor: a path could lead elsewhere by now.
        path = b"/proc/self/fd/%d/%s" % (parent, name)
        wanted = _ALL | _NO_LINK | _NOT_UNLINKED | (_ONLY_FOLDERS if folder else 0)
        number: int = self._library.inotify_add_watch(self._handle, path, ctypes.c_uint32(wanted))
        if number < 0:
            raise _last_error("fs.inotify.max_user_watches")
        return number

    def tells_all(self, device: int) -> bool:
        if device not in self._elsewhere:
            table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
            self._elsewhere[device] = is_elsewhere(table, device)
        return not self._elsewhere[device]

    def unwatch(self, watch: int) -> None:
        self._library.inotify_rm_watch(self._handle, watch)  # fails for one that has ended by itself

    def read(self, timeout: float) -> list[Change]:
        if not self._poll.poll(timeout * 1000):
            return []
        try:
            data = os.read(self._handle, _ROOM)
        except BlockingIOError:
            return []
        return parse(data)

    def close(self) -> None:
        os.close(self._handle)


def is_elsewhere(table: str, device: int) -> bool:
    """Whether others than this kernel may write to a file system, by /proc/self/mountinfo (proc(5)).

    What is not in the table is a part of one that is (a subvolume of btrfs has a number of its own).
    """
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in table.splitlines():
        words = line.split(" ")
        if len(words) > 6 and words[2] == wanted and "-" in words:
            kind = words[words.index("-", 6) + 1]
            return kind in _ELSEWHERE or kind == "fuse" or kind.startswith("fuse.")
    return False


def parse(data: bytes) -> list[Change]:
    """What inotify wrote; whole events, as it always writes them."""
    found, at = [], 0
    while at < len(data):
        watch, mask, cookie, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size
        found.append(Change(watch, Kind(mask), data[at : at + length].rstrip(b"\0"), cookie))
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
