"""Repeats in the mount what somebody did on the host, so that this kernel tells those who watch there.

The host answers these calls without doing anything, for it knows them by the process that makes them; so
that must be another process than the one that holds the mount's descriptor: a call that is not answered
would keep it from ending.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading

from proa_guest import watched
from proa_guest.watched import NODE_HANDLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

TASK = struct.Struct("<3Q3H2x")  # number, folder, other folder, lengths of name, other name and steps
DONE = struct.Struct("<Qi")  # number, error
# Steps that need no folder.
FORGET = b"!"  # nothing that is cached is true any more
LOOK = b"?"  # who watches: their nodes follow the answer, 8 bytes each
TIMEOUT = 30.0  # seconds; the host may be away, and asks again when it is back
MOST = 4096  # bytes of a task
MOST_TOLD = DONE.size + 8 * watched.MOST
AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH = 0x100, 0x1000  # linux/fcntl.h
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2  # linux/stat.h
O_PATH = 0o10000000
MS_REMOUNT, MS_NOSUID, MS_NODEV, MS_NOATIME = 32, 2, 4, 1024  # linux/mount.h


class Repeater:
    """The process, and the way to it. Safe for several threads."""

    def __init__(self, folder: str, close: tuple[int, ...], unseen: Collection[str] = ()) -> None:
        """Of the mount at `folder`; `close` are descriptors that the process must not hold.

        Processes that are `unseen`, by their numbers, watch nothing there. To be called before there are
        threads, for it forks. Raises OSError.
        """
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._ours.close()
                for handle in close:
                    os.close(handle)
                Tasks(folder, theirs, unseen).run()
            finally:
                os._exit(1)
        theirs.close()
        self._ours.settimeout(TIMEOUT)
        self._lock = threading.Lock()

    def carry_out(self, task: bytes) -> int:
        """The error that it ended with, 0 for none. Raises OSError when the process is gone."""
        return self._ask(task, DONE.size)[0]

    def look(self, number: bytes) -> tuple[int, bytes]:
        """The nodes that are watched, 8 bytes each; with an error instead, any may be.

        `number` is the host's, in 8 bytes. Raises OSError when the process is gone.
        """
        task = TASK.pack(int.from_bytes(number, "little"), 0, 0, 0, 0, len(LOOK)) + LOOK
        return self._ask(task, MOST_TOLD)

    def _ask(self, task: bytes, most: int) -> tuple[int, bytes]:
        [number] = struct.unpack_from("<Q", task)
        with self._lock:
            self._ours.send(task)
            while True:
                try:
                    data = self._ours.recv(most)
                except TimeoutError:
                    return errno.ETIMEDOUT, b""
                if len(data) < DONE.size:
                    raise ConnectionResetError(errno.ECONNRESET, "the process that repeats changes has ended")
                done, error = DONE.unpack_from(data)
                if done == number:  # else it is one that was given up
                    return int(error), data[DONE.size :]


class Tasks:
    """What runs in the process."""

    def __init__(self, folder: str, orders: socket.socket, unseen: Collection[str]) -> None:
        self._folder = folder
        self._unseen = unseen
        self._orders = orders
        self._mount: int | None = None
        self._steps: dict[int, Callable[[int, bytes], None]] = {
            ord("f"): lambda at, name: os.mknod(name, 0o100600, dir_fd=at),
            ord("p"): lambda at, name: os.mknod(name, 0o010600, dir_fd=at),
            ord("s"): lambda at, name: os.mknod(name, 0o140600, dir_fd=at),
            ord("d"): lambda at, name: os.mkdir(name, dir_fd=at),
            ord("l"): lambda at, name: os.symlink(b"x", name, dir_fd=at),
            ord("u"): lambda at, name: os.unlink(name, dir_fd=at),
            ord("r"): lambda at, name: os.rmdir(name, dir_fd=at),
            ord("m"): lambda at, name: self._touch(at, name, UTIME_OMIT),
            ord("a"): lambda at, name: self._touch(at, name, UTIME_NOW),
            ord("w"): _open_and_close,
        }

    def run(self) -> None:
        import ctypes  # here, for it takes a while under emulation

        self._library = ctypes.CDLL(None, use_errno=True)
        while task := self._orders.recv(MOST):
            number, folder, other, name_length, other_length, _ = TASK.unpack_from(task)
            rest = task[TASK.size :]
            name, rest = rest[:name_length], rest[name_length:]
            steps = rest[other_length:]
            told = b""
            try:
                if steps == LOOK:
                    error, told = self._look()
                else:
                    error = self._carry_out(folder, name, (other, rest[:other_length]), steps)
            except OSError as failed:
                error = failed.errno or errno.EIO
            self._orders.send(DONE.pack(number, error) + told)

    def _carry_out(self, folder: int, name: bytes, other: tuple[int, bytes], steps: bytes) -> int:
        """The last error of its steps: who watches gets as much as there is. Raises OSError."""
        if steps == FORGET:
            return self._forget()
        error = 0
        with self._opened(folder) as at:
            for step in steps:
                try:
                    if step == ord("v"):
                        with self._opened(other[0]) as to:
                            os.rename(name, other[1], src_dir_fd=at, dst_dir_fd=to)
                    else:
                        self._steps[step](at, name)
                except OSError as failed:
                    error = failed.errno or errno.EIO
        return error

    def _look(self) -> tuple[int, bytes]:
        """Raises OSError."""
        found = watched.nodes(os.fstat(self._top()).st_dev, self._unseen)
        if found is None:
            return errno.EOVERFLOW, b""
        return 0, struct.pack(f"<{len(found)}Q", *found)

    def _top(self) -> int:
        """The mount's own folder. Raises OSError."""
        if self._mount is None:
            self._mount = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._mount

    @contextlib.contextmanager
    def _opened(self, node: int):  # type: ignore[no-untyped-def]  # typing is not imported in the guest
        """A folder by the number that the host and this kernel have for it, wherever it is by now.

        Raises OSError: ESTALE for one that this kernel has forgotten, so that nobody can be watching it.
        """
        import ctypes

        handle = struct.pack("<IiIII", 12, NODE_HANDLE, node >> 32, node & 0xFFFFFFFF, 0)
        found = self._library.open_by_handle_at(self._top(), handle, O_PATH | os.O_CLOEXEC)
        if found < 0:
            raise _error(ctypes.get_errno())
        try:
            yield found
        finally:
            os.close(found)

    def _touch(self, at: int, name: bytes, access: int) -> None:
        """Set only the time of change, which is told as a change of content; with both, of attributes."""
        import ctypes

        times = struct.pack("<4q", 0, access, 0, UTIME_NOW)
        if self._library.utimensat(at, name, times, AT_SYMLINK_NOFOLLOW):
            raise _error(ctypes.get_errno())

    def _forget(self) -> int:
        """Every name that nobody holds open is forgotten when a mount is mounted again."""
        import ctypes

        flags = ctypes.c_ulong(MS_REMOUNT | MS_NOSUID | MS_NODEV | MS_NOATIME)
        if self._library.mount(None, self._folder.encode(), None, flags, None):
            return ctypes.get_errno()
        return 0


def _open_and_close(at: int, name: bytes) -> None:
    os.close(os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at))


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
