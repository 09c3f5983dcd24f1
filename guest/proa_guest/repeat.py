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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TASK = struct.Struct("<3Q3H2x")  # number, folder, other folder, lengths of name, other name and steps
DONE = struct.Struct("<Qi")  # number, error
FORGET = b"!"  # the only step that needs no folder: nothing that is cached is true any more
TIMEOUT = 30.0  # seconds; the host may be away, and asks again when it is back
MOST = 4096
AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH = 0x100, 0x1000  # linux/fcntl.h
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2  # linux/stat.h
NODE_HANDLE = 0x81  # linux/exportfs.h, FILEID_INO64_GEN: how FUSE names a node to open_by_handle_at(2)
O_PATH = 0o10000000
MS_REMOUNT, MS_NOSUID, MS_NODEV, MS_NOATIME = 32, 2, 4, 1024  # linux/mount.h


class Repeater:
    """The process, and the way to it. Belongs to one thread."""

    def __init__(self, folder: str, close: tuple[int, ...]) -> None:
        """Of the mount at `folder`; `close` are descriptors that the process must not hold.

        To be called before there are threads, for it forks. Raises OSError.
        """
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._ours.close()
                for handle in close:
                    os.close(handle)
                Tasks(folder, theirs).run()
            finally:
                os._exit(1)
        theirs.close()
        self._ours.settimeout(TIMEOUT)

    def carry_out(self, task: bytes) -> int:
        """The error that it ended with, 0 for none. Raises OSError when the process is gone."""
        [number] = struct.unpack_from("<Q", task)
        self._ours.send(task)
        while True:
            try:
                data = self._ours.recv(DONE.size)
            except TimeoutError:
                return errno.ETIMEDOUT
            if len(data) < DONE.size:
                raise ConnectionResetError(errno.ECONNRESET, "the process that repeats changes has ended")
            done, error = DONE.unpack(data)
            if done == number:  # else it is one that was given up
                return int(error)


class Tasks:
    """What runs in the process."""

    def __init__(self, folder: str, orders: socket.socket) -> None:
        self._folder = folder
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
            try:
                error = self._carry_out(folder, name, (other, rest[:other_length]), steps)
            except OSError as failed:
                error = failed.errno or errno.EIO
            self._orders.send(DONE.pack(number, error))

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

    @contextlib.contextmanager
    def _opened(self, node: int):  # type: ignore[no-untyped-def]  # typing is not imported in the guest
        """A folder by the number that the host and this kernel have for it, wherever it is by now.

        Raises OSError: ESTALE for one that this kernel has forgotten, so that nobody can be watching it.
        """
        import ctypes

        if self._mount is None:
            self._mount = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        handle = struct.pack("<IiIII", 12, NODE_HANDLE, node >> 32, node & 0xFFFFFFFF, 0)
        found = self._library.open_by_handle_at(self._mount, handle, O_PATH | os.O_CLOEXEC)
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
