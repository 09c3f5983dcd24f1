"""What `proa.system.beneath` is on POSIX systems: their *at calls, with the numbers of open files."""

from __future__ import annotations

import errno
import fcntl
import os
import sys

assert sys.platform != "win32"  # which has proa.system.beneath_windows

Status = os.stat_result
BITS: int | None = None  # of every file, where a disk keeps none for each
FOLDERS_HELD = 10.0  # seconds for which a folder may stay open here: that disturbs only who takes a disk out
CLOSING_SETS_TIMES = False
OPEN_FOLDERS: tuple[int, ...] = ()  # errors that may mean that an open folder is in the way

# A whole path as the guest has it, of what it is here, and back: the same.
shared_path = os.fsencode
host_path = os.fsdecode

# Of an open file, by its number: the calls themselves, for most of what the guest asks ends in one of these.
fstat = os.fstat
pread = os.pread
pwrite = os.pwrite
truncate = os.ftruncate
set_mode_of = os.fchmod
space = os.statvfs


class Descriptor:
    """An open file or folder. `number` is valid for as long as the object lives."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


# A folder that is only passed through: needs no right to read it (Linux; elsewhere it must be readable).
_PASS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_NEVER_ASTRAY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_root(path: bytes) -> Descriptor:
    """A folder by its whole path, links and all: whoever shares it chose that path. Raises OSError."""
    return Descriptor(os.open(path, _PASS))


def open_folder(parent: Descriptor, name: bytes) -> Descriptor:
    """A folder in a folder, to pass through. Raises OSError (ENOTDIR for a link)."""
    return Descriptor(os.open(name, _PASS | os.O_NOFOLLOW, dir_fd=parent.number))


def open_file(parent: Descriptor, name: bytes, flags: int, mode: int = 0o600) -> Descriptor:
    """A file in a folder; never through a link, and never waiting for the other end of a pipe."""
    return Descriptor(os.open(name, flags | _NEVER_ASTRAY, mode, dir_fd=parent.number))


def status(parent: Descriptor, name: bytes) -> Status:
    return os.stat(name, dir_fd=parent.number, follow_symlinks=False)


def status_at(path: bytes, *, follow: bool = True) -> Status:
    """By a whole path: of what the host's user chose, or only to be compared. Raises OSError."""
    return os.stat(path, follow_symlinks=follow)  # noqa: PTH116  (bytes)


def names_in(folder: Descriptor) -> list[bytes]:
    """All names in a folder, without `.` and `..`. Raises OSError."""
    handle = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder.number)
    try:
        return [os.fsencode(name) for name in os.listdir(handle)]  # noqa: PTH208  (there is no path)
    finally:
        os.close(handle)


def make_folder(parent: Descriptor, name: bytes, bits: int) -> None:
    os.mkdir(name, bits, dir_fd=parent.number)


def make_node(parent: Descriptor, name: bytes, mode: int) -> None:
    """An empty file, a pipe or a socket: by the type in `mode`."""
    os.mknod(name, mode, dir_fd=parent.number)


def make_link(parent: Descriptor, name: bytes, target: bytes) -> None:
    """A symbolic link."""
    os.symlink(target, name, dir_fd=parent.number)


def link_target(parent: Descriptor, name: bytes) -> bytes:
    return os.readlink(name, dir_fd=parent.number)


def add_name(parent: Descriptor, name: bytes, to_parent: Descriptor, to_name: bytes) -> None:
    """Another name of a file (a hard link)."""
    os.link(name, to_name, src_dir_fd=parent.number, dst_dir_fd=to_parent.number, follow_symlinks=False)


def remove_file(parent: Descriptor, name: bytes) -> None:
    os.unlink(name, dir_fd=parent.number)


def remove_folder(parent: Descriptor, name: bytes) -> None:
    os.rmdir(name, dir_fd=parent.number)


def set_times(parent: Descriptor, name: bytes, times: tuple[int, int]) -> None:
    """Of access and of change, in nanoseconds since 1970; a link's own."""
    os.utime(name, ns=times, dir_fd=parent.number, follow_symlinks=False)


def set_times_of(file: Descriptor, times: tuple[int, int]) -> None:
    os.utime(file.number, ns=times)


def set_mode(parent: Descriptor, name: bytes, mode: int) -> None:
    """The bits of a file or folder; those of a link cannot be set (EOPNOTSUPP)."""
    if sys.platform == "linux":
        handle = Descriptor(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.number))
        os.chmod(_by_number(handle), mode)  # noqa: PTH101
    else:
        os.chmod(name, mode, dir_fd=parent.number, follow_symlinks=False)


def sync(file: Descriptor, *, data_only: bool) -> None:
    """Return when it is on the disk itself."""
    if sys.platform == "darwin":
        fcntl.fcntl(file.number, fcntl.F_FULLFSYNC)  # fsync alone stops at the disk's own memory
    elif data_only:
        os.fdatasync(file.number)
    else:
        os.fsync(file.number)


# -- extended attributes ---------------------------------------------------------------------------


def _by_number(handle: Descriptor) -> str:
    return f"/proc/self/fd/{handle.number}"


def _file_of(parent: Descriptor, name: bytes) -> bytes:
    return b"/proc/self/fd/%d/%s" % (parent.number, name)


def get_attribute(parent: Descriptor, name: bytes, key: str) -> bytes:
    """Raises OSError: ENODATA where there is none, EOPNOTSUPP where there can be none."""
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return os.getxattr(_file_of(parent, name), key, follow_symlinks=False)


def set_attribute(parent: Descriptor, name: bytes, key: str, value: bytes, flags: int = 0) -> None:
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    os.setxattr(_file_of(parent, name), key, value, flags, follow_symlinks=False)


def list_attributes(parent: Descriptor, name: bytes) -> list[str]:
    if sys.platform != "linux":
        return []
    return os.listxattr(_file_of(parent, name), follow_symlinks=False)


def remove_attribute(parent: Descriptor, name: bytes, key: str) -> None:
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    os.removexattr(_file_of(parent, name), key, follow_symlinks=False)


# -- what only some systems can --------------------------------------------------------------------


def rename(parent: Descriptor, name: bytes, to_parent: Descriptor, to_name: bytes, flags: int = 0) -> None:
    """Raises OSError; EINVAL for flags that this system does not know."""
    if not flags:
        os.rename(name, to_name, src_dir_fd=parent.number, dst_dir_fd=to_parent.number)
        return
    import ctypes  # only here: most renames have no flags

    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform != "linux" or not hasattr(library, "renameat2"):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if library.renameat2(parent.number, name, to_parent.number, to_name, flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def allocate(handle: Descriptor, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with all its modes on Linux, elsewhere only the plain one. Raises OSError."""
    if mode == 0 and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle.number, offset, length)
        return
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    import ctypes  # as above

    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if call(handle.number, mode, offset, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def seek(handle: Descriptor, offset: int, *, hole: bool) -> int:
    """Where the next hole begins, or what is none. Raises OSError (ENXIO behind the end)."""
    if not hasattr(os, "SEEK_DATA"):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return os.lseek(handle.number, offset, os.SEEK_HOLE if hole else os.SEEK_DATA)


def append(handle: Descriptor, data: memoryview) -> int:
    """Write at the end, wherever that is by now; the bytes written."""
    if sys.platform == "linux":
        return os.pwritev(handle.number, [data], 0, os.RWF_APPEND)
    return os.pwrite(handle.number, data, os.fstat(handle.number).st_size)


def copy(source: Descriptor, start: int, target: Descriptor, offset: int, length: int) -> int:
    """The bytes copied within the host, which may share blocks. Raises OSError."""
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return os.copy_file_range(source.number, target.number, length, start, offset)
