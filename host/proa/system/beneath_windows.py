"""What `proa.system.beneath` is on Windows: handles of folders, and names that are opened in those.

Nothing is ever opened through a link, a junction or a mounted folder: each of these is a link here. Links
that are made are those of WSL, which may lead to anything and need no right to be made; Windows' own programs
do not follow them. A file keeps no owner and no bits, but that it is for reading only.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys

assert sys.platform == "win32"

from proa.system import ntdll, windows_records
from proa.system.ntdll import (
    APPEND_DATA,
    CREATE,
    DELETE,
    FOLDER_ONLY,
    ITSELF,
    NO_FOLDER,
    OPEN,
    OPEN_OR_CREATE,
    READ_ATTRIBUTES,
    READ_DATA,
    WRITE_ATTRIBUTES,
    WRITE_DATA,
)
from proa.system.windows_files import (
    BASIC,
    CANNOT,
    EVERYTHING,
    Space,
    kind_of,
    opened,
    refused,
    reparse_of,
    time_of,
)
from proa.system.windows_files import Descriptor as Descriptor  # noqa: PLC0414  (the door gives it on)
from proa.system.windows_files import Status as Status  # noqa: PLC0414
from proa.system.windows_files import fstat as fstat  # noqa: PLC0414
from proa.system.windows_names import REMOVED, encode, path_to_guest, path_to_windows, to_guest, to_windows
from proa.system.windows_records import Reparse

BITS: int | None = EVERYTHING  # of every file, where none is kept for it
FOLDERS_HELD = 1.0  # seconds: a folder cannot be moved while one in it is open, whoever has it open
CLOSING_SETS_TIMES = True  # of what was written to it: until then NTFS may keep the change to itself
OPEN_FOLDERS: tuple[int, ...] = (errno.EACCES, errno.EBUSY, errno.ENOTEMPTY)

# A whole path as the guest has it, of what it is here, and back. Both raise OSError for what is on no drive.
shared_path = path_to_guest
host_path = path_to_windows

_SIZES = struct.Struct("<3q2I")  # FILE_FS_FULL_SIZE_INFORMATION: all, ours, free; sectors in one, their bytes
_TO_NAME = struct.Struct("<I4xQI")  # FILE_RENAME_INFORMATION(_EX), FILE_LINK_...: flags, folder, length
_REPLACE, _AT_ONCE, _READ_ONLY_TOO = 0x1, 0x2, 0x40  # FILE_RENAME_*: as POSIX has it
_GO, _GO_AT_ONCE, _GO_READ_ONLY = 0x1, 0x2, 0x10  # FILE_DISPOSITION_*: as POSIX has it
_RANGE = struct.Struct("<2q")  # FILE_ALLOCATED_RANGE_BUFFER: from where, how many bytes
_LISTED = 64 << 10  # bytes of names that are asked for at once
_TAGS = {stat.S_IFIFO: windows_records.LX_PIPE, stat.S_IFSOCK: windows_records.LX_SOCKET}

# -- opening ---------------------------------------------------------------------------------------


def open_root(path: bytes) -> Descriptor:
    """A folder by its whole path, links and all: whoever shares it chose that path. Raises OSError."""
    return Descriptor(ntdll.open_handle(None, _whole(path), READ_ATTRIBUTES, OPEN, FOLDER_ONLY))


def _whole(path: bytes) -> str:
    return "\\??\\" + path_to_windows(path)


def open_folder(parent: Descriptor, name: bytes) -> Descriptor:
    """A folder in a folder, to pass through. Raises OSError (ENOTDIR for a link)."""
    folder = opened(parent, name, 0, FOLDER_ONLY)
    if kind_of(folder.number) != stat.S_IFDIR:
        raise refused(errno.ENOTDIR)
    return folder


def open_file(parent: Descriptor, name: bytes, flags: int, mode: int = 0o600) -> Descriptor:
    """A file in a folder; never through a link."""
    way = flags & (os.O_WRONLY | os.O_RDWR)
    access = 0 if way == os.O_WRONLY else READ_DATA
    if way or flags & os.O_TRUNC:
        access |= WRITE_DATA | APPEND_DATA | WRITE_ATTRIBUTES
    how = OPEN
    if flags & os.O_CREAT:
        how = CREATE if flags & os.O_EXCL else OPEN_OR_CREATE
    file = opened(parent, name, access, 0 if name == b"." else NO_FOLDER, how)
    kind = kind_of(file.number)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise refused(errno.ELOOP if kind == stat.S_IFLNK else errno.ENXIO)
    if flags & os.O_TRUNC:
        truncate(file.number, 0)
    return file


# -- looking ---------------------------------------------------------------------------------------


def status(parent: Descriptor, name: bytes) -> Status:
    file = opened(parent, name, 0)
    return fstat(file.number)


def status_at(path: bytes, *, follow: bool = True) -> Status:
    """By a whole path: of what the host's user chose, or only to be compared. Raises OSError."""
    options = 0 if follow else ITSELF
    file = Descriptor(ntdll.open_handle(None, _whole(path), READ_ATTRIBUTES, OPEN, options))
    return fstat(file.number)


def link_target(parent: Descriptor, name: bytes) -> bytes:
    link = opened(parent, name, 0)
    return reparse_of(link.number).target()


def names_in(folder: Descriptor) -> list[bytes]:
    """All names in a folder, without `.` and `..`. Raises OSError."""
    reader = opened(folder, b".", ntdll.LIST, FOLDER_ONLY)
    found: list[bytes] = []
    again = True
    while data := ntdll.list_names(reader.number, _LISTED, again=again):
        try:
            found += map(to_guest, windows_records.names(data))
        except ValueError as error:
            raise OSError(errno.EIO, str(error)) from error
        again = False
    return found


def space(number: int) -> Space:
    """Of the disk that an open file or folder is on."""
    every, ours, free, sectors, size = _SIZES.unpack(ntdll.query_volume(number, ntdll.FULL_SIZE, _SIZES.size))
    return Space(every, free, ours, sectors * size, sectors * size)


# -- names that come and go ------------------------------------------------------------------------


def make_folder(parent: Descriptor, name: bytes, bits: int) -> None:
    opened(parent, name, 0, FOLDER_ONLY, CREATE)


def make_node(parent: Descriptor, name: bytes, mode: int) -> None:
    """An empty file, a pipe or a socket: by the type in `mode`. Raises OSError EPERM where there are none."""
    kind = stat.S_IFMT(mode)
    if kind in _TAGS:
        _make_reparse(parent, name, Reparse(_TAGS[kind]))
    else:
        opened(parent, name, 0, NO_FOLDER, CREATE)


def make_link(parent: Descriptor, name: bytes, target: bytes) -> None:
    """A symbolic link. Raises OSError EPERM where the file system has none, as Linux does."""
    _make_reparse(parent, name, windows_records.link(target))


def _make_reparse(parent: Descriptor, name: bytes, reparse: Reparse) -> None:
    file = opened(parent, name, WRITE_DATA | WRITE_ATTRIBUTES | DELETE, NO_FOLDER, CREATE)
    try:
        ntdll.control(file.number, ntdll.SET_REPARSE, reparse.buffer())
    except OSError as error:
        _remove(file, parent, name)
        if error.errno in CANNOT:
            raise OSError(errno.EPERM, "this file system keeps no links, pipes and sockets") from error
        raise


def add_name(parent: Descriptor, name: bytes, to_parent: Descriptor, to_name: bytes) -> None:
    """Another name of a file (a hard link)."""
    file = opened(parent, name, WRITE_ATTRIBUTES, NO_FOLDER)
    ntdll.change(file.number, ntdll.LINK, _to_name(0, to_parent, to_name))


def _to_name(flags: int, folder: Descriptor, name: bytes) -> bytes:
    data = encode(to_windows(name))
    return (_TO_NAME.pack(flags, folder.number, len(data)) + data).ljust(
        24, b"\0"
    )  # the size of the structure


def remove_file(parent: Descriptor, name: bytes) -> None:
    file = opened(parent, name, DELETE | WRITE_ATTRIBUTES)
    if kind_of(file.number) == stat.S_IFDIR:
        raise refused(errno.EISDIR)
    _remove(file, parent, name)


def remove_folder(parent: Descriptor, name: bytes) -> None:
    folder = opened(parent, name, DELETE | WRITE_ATTRIBUTES, FOLDER_ONLY)
    if kind_of(folder.number) != stat.S_IFDIR:
        raise refused(errno.ENOTDIR)
    _remove(folder, parent, name)


def _remove(file: Descriptor, parent: Descriptor, name: bytes) -> None:
    """What is called so, and is open, goes; the name is free at once, whoever has it open as well."""
    try:
        flags = struct.pack("<I", _GO | _GO_AT_ONCE | _GO_READ_ONLY)
        ntdll.change(file.number, ntdll.DISPOSITION_EX, flags)
    except OSError as error:
        if error.errno not in CANNOT:
            raise
        _remove_plainly(file, parent, name)


def _remove_plainly(file: Descriptor, parent: Descriptor, name: bytes) -> None:
    """It goes when the last who has it open closes it, and is until then where it is in nobody's way."""
    if _is_folder(file) and names_in(file):
        raise refused(errno.ENOTEMPTY)
    _set_attributes(file.number, read_only=False)
    hidden = (REMOVED + os.urandom(8).hex()).encode("ascii")
    _move(file, 0, parent.top or parent, hidden)
    try:
        ntdll.change(file.number, ntdll.DISPOSITION, b"\1")
    except OSError:
        _move(file, 0, parent, name)
        raise


def rename(parent: Descriptor, name: bytes, to_parent: Descriptor, to_name: bytes, flags: int = 0) -> None:
    """Raises OSError; EINVAL for flags that this system does not know."""
    if flags not in (0, 1):  # RENAME_NOREPLACE
        raise refused(errno.EINVAL)
    file = opened(parent, name, DELETE)
    replace = _REPLACE if not flags else 0
    try:
        _move(file, replace, to_parent, to_name)
    except OSError as error:
        # No folder takes the place of another one: not even of one that is empty.
        if not replace or error.errno not in (errno.EACCES, errno.EEXIST) or not _is_folder(file):
            raise
        _move_over_empty(file, to_parent, to_name, error)


def _move_over_empty(file: Descriptor, to_parent: Descriptor, to_name: bytes, error: OSError) -> None:
    """Raises `error` where there is no other folder."""
    try:
        if status(to_parent, to_name).st_ino == fstat(file.number).st_ino:
            raise error  # its own name in another case
        remove_folder(to_parent, to_name)
    except (FileNotFoundError, NotADirectoryError):
        raise error from None
    try:
        _move(file, 0, to_parent, to_name)
    except OSError:
        make_folder(to_parent, to_name, 0o755)
        raise


def _is_folder(file: Descriptor) -> bool:
    return kind_of(file.number) == stat.S_IFDIR


def _move(file: Descriptor, replace: int, to_parent: Descriptor, to_name: bytes) -> None:
    try:
        at_once = _to_name(replace | _AT_ONCE | _READ_ONLY_TOO, to_parent, to_name)
        ntdll.change(file.number, ntdll.RENAME_EX, at_once)
    except OSError as error:
        if error.errno not in CANNOT:
            raise
        _move_plainly(file, replace, to_parent, to_name)


def _move_plainly(file: Descriptor, replace: int, to_parent: Descriptor, to_name: bytes) -> None:
    try:
        ntdll.change(file.number, ntdll.RENAME, _to_name(replace, to_parent, to_name))
    except PermissionError as error:
        if not replace:
            raise
        try:  # somebody has what is there open
            remove_file(to_parent, to_name)
        except OSError:
            raise error from None
        ntdll.change(file.number, ntdll.RENAME, _to_name(0, to_parent, to_name))


# -- attributes ------------------------------------------------------------------------------------


def set_mode(parent: Descriptor, name: bytes, mode: int) -> None:
    """Whether a file is for reading only; nothing else is kept, and of a folder not even that."""
    file = opened(parent, name, WRITE_ATTRIBUTES)
    if kind_of(file.number) == stat.S_IFREG:
        set_mode_of(file.number, mode)


def set_mode_of(number: int, mode: int) -> None:
    _set_attributes(number, read_only=not mode & 0o200)


def _set_attributes(handle: int, *, read_only: bool) -> None:
    attributes: int = BASIC.unpack(ntdll.query(handle, ntdll.BASIC, BASIC.size))[4]
    wanted = attributes | ntdll.READ_ONLY if read_only else attributes & ~ntdll.READ_ONLY
    if wanted != attributes:
        ntdll.change(handle, ntdll.BASIC, BASIC.pack(0, 0, 0, 0, wanted or ntdll.NORMAL))


def set_times(parent: Descriptor, name: bytes, times: tuple[int, int]) -> None:
    """Of access and of change, in nanoseconds since 1970, kept in hundreds of them; a link's own."""
    set_times_of(opened(parent, name, WRITE_ATTRIBUTES), times)


def set_times_of(file: Descriptor, times: tuple[int, int]) -> None:
    read, written = map(time_of, times)  # a time of 0 leaves one as it is
    ntdll.change(file.number, ntdll.BASIC, BASIC.pack(0, read, written, 0, 0))


def get_attribute(parent: Descriptor, name: bytes, key: str) -> bytes:
    """There are none of the kind that the guest means."""
    raise refused(errno.EOPNOTSUPP)


def set_attribute(parent: Descriptor, name: bytes, key: str, value: bytes, flags: int = 0) -> None:
    raise refused(errno.EOPNOTSUPP)


def list_attributes(parent: Descriptor, name: bytes) -> list[str]:
    return []


def remove_attribute(parent: Descriptor, name: bytes, key: str) -> None:
    raise refused(errno.EOPNOTSUPP)


# -- content ---------------------------------------------------------------------------------------


def pread(number: int, size: int, offset: int) -> bytes:
    if offset < 0:
        raise refused(errno.EINVAL)
    return ntdll.read(number, size, offset)


def pwrite(number: int, data: bytes | memoryview, offset: int) -> int:
    if offset < 0:
        raise refused(errno.EINVAL)
    return ntdll.write(number, bytes(data), offset)


def append(handle: Descriptor, data: memoryview) -> int:
    """Write at the end, wherever that is by now; the bytes written."""
    return ntdll.write(handle.number, bytes(data), -1)


def truncate(number: int, size: int) -> None:
    ntdll.change(number, ntdll.END_OF_FILE, struct.pack("<q", size))


def sync(file: Descriptor, *, data_only: bool) -> None:
    """Return when it is on the disk itself. What happens to names is in the file system's journal."""
    if _is_folder(file):
        return
    try:
        ntdll.flush(file.number)
    except PermissionError:  # it is open for reading only
        writer = opened(file, b".", WRITE_DATA)
        ntdll.flush(writer.number)


def seek(handle: Descriptor, offset: int, *, hole: bool) -> int:
    """Where the next hole begins, or what is none. Raises OSError (ENXIO behind the end)."""
    size = fstat(handle.number).st_size
    if not 0 <= offset < size:
        raise refused(errno.ENXIO)
    while offset < size:
        start, length = _allocated(handle.number, offset, size - offset)
        if not hole:
            if not length:
                raise refused(errno.ENXIO)
            return max(start, offset)
        if not length or start > offset:
            return offset
        offset = start + length
    return size


def _allocated(handle: int, offset: int, length: int) -> tuple[int, int]:
    """The next range that is no hole; its length is 0 where there is none."""
    try:
        found = ntdll.control(handle, ntdll.ALLOCATED_RANGES, _RANGE.pack(offset, length), _RANGE.size)
    except OSError as error:
        if error.errno not in CANNOT:
            raise
        return offset, length  # a file system without holes
    start, size = _RANGE.unpack(found) if len(found) == _RANGE.size else (0, 0)
    return start, size


def allocate(handle: Descriptor, mode: int, offset: int, length: int) -> None:
    """fallocate(2), with FALLOC_FL_KEEP_SIZE or without. Raises OSError; EOPNOTSUPP for other modes."""
    if mode not in (0, 1):
        raise refused(errno.EOPNOTSUPP)
    found, end = fstat(handle.number), offset + length
    if end > found.st_blocks * 512:
        ntdll.change(handle.number, ntdll.ALLOCATION, struct.pack("<q", end))
    if not mode and end > found.st_size:
        truncate(handle.number, end)


def copy(source: Descriptor, start: int, target: Descriptor, offset: int, length: int) -> int:
    """The guest copies by itself."""
    raise refused(errno.EOPNOTSUPP)
