"""Files of Windows by their handles: what is opened in a folder, and what is read of it.

Numbers and structures are those of ntifs.h, wdm.h and winnt.h.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

assert sys.platform == "win32"

from proa.system import ntdll, windows_records
from proa.system.windows_names import to_windows
from proa.system.windows_records import Reparse

# Bits of what has none: programs can be run, and who works in a container, seldom as root, can write, as with
# Docker Desktop on Windows. What the guest makes or changes keeps its own.
EVERYTHING = 0o777
CANNOT = (errno.EOPNOTSUPP, errno.EINVAL)  # what is newer than this Windows, or than this file system
_1970 = 116444736000000000  # winnt.h counts 100 nanoseconds from 1601 on
# wdm.h, FILE_ALL_INFORMATION up to the file's number: four times and attributes (FILE_BASIC_INFORMATION); how
# much is allocated, length, names, whether it goes when it is closed (FILE_STANDARD_INFORMATION); the number.
_ALL = struct.Struct("<4qI4xqqIB3xQ")
_ALL_SIZE = 104  # of the structure, up to its name
BASIC = struct.Struct("<4qI4x")
_TAG = struct.Struct("<2I")  # FILE_ATTRIBUTE_TAG_INFORMATION: attributes, tag
_VOLUME = struct.Struct("<qI")  # FILE_FS_VOLUME_INFORMATION: its time, its number, ...
_VOLUME_SIZE = 24
_MOST_REPARSE = 16 << 10  # ntifs.h
_KINDS = {
    windows_records.SYMLINK: stat.S_IFLNK,
    windows_records.MOUNT_POINT: stat.S_IFLNK,
    windows_records.LX_SYMLINK: stat.S_IFLNK,
    windows_records.LX_PIPE: stat.S_IFIFO,
    windows_records.LX_SOCKET: stat.S_IFSOCK,
}


class Status(NamedTuple):
    """What os.stat_result is elsewhere; Windows' own has no blocks."""

    st_mode: int
    st_ino: int
    st_dev: int
    st_nlink: int
    st_size: int
    st_blocks: int
    st_atime_ns: int
    st_mtime_ns: int
    st_ctime_ns: int  # of any change, as on other systems; not when it was made
    st_uid: int = 0
    st_gid: int = 0
    st_blksize: int = 4096


class Space(NamedTuple):
    """What os.statvfs_result is elsewhere."""

    f_blocks: int
    f_bfree: int
    f_bavail: int
    f_bsize: int
    f_frsize: int
    f_files: int = 0
    f_ffree: int = 0
    f_namemax: int = 255


class Handle(int):
    """The number of an open file, which knows what volume that is on."""

    device: int | None = None


class Descriptor:
    """An open file or folder. `number` is its handle, valid for as long as the object lives."""

    __slots__ = ("number", "top")

    def __init__(self, number: int, within: Descriptor | None = None) -> None:
        """`within` is the folder that it was opened in; no folder has a file of another volume in it."""
        self.number = Handle(number)
        self.top: Descriptor | None = None  # of all that it is in
        if within is not None:
            self.top = within.top or within
            self.number.device = _device_of(within.number)

    def __del__(self, close: Callable[[int], None] = ntdll.close) -> None:
        close(self.number)


def _name(name: bytes) -> str:
    """To be opened in a folder; that itself is called `.`."""
    return to_windows(name) if name != b"." else ""


def _device_of(handle: int) -> int:
    """The number of the volume that an open file is on."""
    if not isinstance(handle, Handle) or handle.device is None:
        device: int = _VOLUME.unpack_from(ntdll.query_volume(handle, ntdll.VOLUME, _VOLUME_SIZE))[1]
        if not isinstance(handle, Handle):
            return device
        handle.device = device
    return handle.device


def opened(
    parent: Descriptor, name: bytes, access: int, options: int = 0, how: int = ntdll.OPEN
) -> Descriptor:
    """What is called so in a folder, itself. Raises OSError."""
    handle = ntdll.open_handle(
        parent.number, _name(name), access | ntdll.READ_ATTRIBUTES, how, options | ntdll.ITSELF
    )
    return Descriptor(handle, parent)


def _kind(attributes: int, tag: int) -> int:
    if attributes & ntdll.IS_REPARSE:
        if tag in _KINDS:
            return _KINDS[tag]
        if Reparse(tag).stands_for_another:
            return stat.S_IFLNK
    return stat.S_IFDIR if attributes & ntdll.IS_FOLDER else stat.S_IFREG


def kind_of(handle: int) -> int:
    """The type of an open file, as of st_mode."""
    return _kind(*_TAG.unpack(ntdll.query(handle, ntdll.TAG, _TAG.size)))


def reparse_of(handle: int) -> Reparse:
    """What an open file is instead. Raises OSError, EINVAL for one that is nothing else."""
    try:
        return Reparse.read(ntdll.control(handle, ntdll.GET_REPARSE, room=_MOST_REPARSE))
    except ValueError as error:
        raise OSError(errno.EIO, str(error)) from error


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def fstat(number: int) -> Status:
    """How an open file looks."""
    handle, found = number, _ALL.unpack_from(_all_of(number))
    _, read, written, changed, attributes, allocated, size, links, going, inode = found
    tag = 0
    if attributes & ntdll.IS_REPARSE:
        _, tag = _TAG.unpack(ntdll.query(handle, ntdll.TAG, _TAG.size))
    kind = _kind(attributes, tag)
    bits = EVERYTHING
    if kind == stat.S_IFLNK:
        size = len(_target_or_nothing(handle))
    elif kind == stat.S_IFREG and attributes & ntdll.READ_ONLY:
        bits = 0o555
    return Status(
        kind | bits, inode, _device_of(handle), 0 if going else links, size, (allocated + 511) // 512,
        _since_1970(read), _since_1970(written), _since_1970(changed or written),
    )  # fmt: skip


def _all_of(handle: int) -> bytes:
    try:
        return ntdll.query(handle, ntdll.ALL, _ALL_SIZE)
    except OSError:  # there is a name in that, which Wine does not know after a folder above has moved
        parts = ((ntdll.BASIC, BASIC.size), (ntdll.STANDARD, 24), (ntdll.INTERNAL, 8))
        return b"".join(ntdll.query(handle, kind, size) for kind, size in parts)


def time_of(nanoseconds: int) -> int:
    """As Windows has a time that is counted from 1970 on; what is before 1601 cannot be told."""
    return max(nanoseconds // 100 + _1970, 1)


def _since_1970(time: int) -> int:
    return (time - _1970) * 100


def _target_or_nothing(handle: int) -> bytes:
    try:
        return reparse_of(handle).target()
    except OSError:
        return b""  # a kind of link that cannot be read
