"""Windows' own calls on files, by handles: what its kernel offers, without what is made of it for programs.

Numbers and structures are those of ntifs.h, wdm.h, winnt.h and ntstatus.h. A call that fails raises OSError.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from ctypes import wintypes

assert sys.platform == "win32"

from proa.system.windows_names import encode

# Rights (winnt.h).
READ_DATA = LIST = 0x1
WRITE_DATA, APPEND_DATA, READ_ATTRIBUTES, WRITE_ATTRIBUTES = 0x2, 0x4, 0x80, 0x100
DELETE, SYNCHRONIZE = 0x10000, 0x100000
# What to do with a name that is there, or is not (wdm.h, FILE_OPEN ...).
OPEN, CREATE, OPEN_OR_CREATE = 1, 2, 3
# How to open (wdm.h): folders or anything else only; a link itself; what a backup may; one call at a time.
FOLDER_ONLY, NO_FOLDER, ITSELF, FOR_BACKUP, IN_TURN = 0x1, 0x40, 0x200000, 0x4000, 0x20
# Attributes (winnt.h).
READ_ONLY, IS_FOLDER, NORMAL, IS_REPARSE = 0x1, 0x10, 0x80, 0x400
# Classes of information on files (wdm.h, FILE_INFORMATION_CLASS), and on the disk (FS_INFORMATION_CLASS).
BASIC, STANDARD, INTERNAL, RENAME, LINK, NAMES, DISPOSITION = 4, 5, 6, 10, 11, 12, 13
ALL, ALLOCATION, END_OF_FILE = 18, 19, 20
TAG, DISPOSITION_EX, RENAME_EX = 35, 64, 65
VOLUME, FULL_SIZE = 1, 7
# Requests to a file system (winioctl.h).
GET_REPARSE, SET_REPARSE, ALLOCATED_RANGES = 0x900A8, 0x900A4, 0x940CF

_SHARED = 0x7  # with whoever reads, writes or deletes it
_ANY_CASE = 0x40  # OBJ_CASE_INSENSITIVE, as all programs of Windows have it
END_OF_DATA, NO_MORE_FILES, NO_SUCH_FILE, MORE_DATA = 0xC0000011, 0x80000006, 0xC000000F, 0x80000005
_ERRNO = {
    0xC0000002: errno.EOPNOTSUPP,  # NOT_IMPLEMENTED
    0xC0000003: errno.EOPNOTSUPP,  # INVALID_INFO_CLASS
    0xC0000010: errno.EOPNOTSUPP,  # INVALID_DEVICE_REQUEST
    0xC00000BB: errno.EOPNOTSUPP,  # NOT_SUPPORTED
    0xC0000008: errno.EBADF,  # INVALID_HANDLE
    0xC000000D: errno.EINVAL,  # INVALID_PARAMETER
    0xC0000033: errno.ENOENT,  # OBJECT_NAME_INVALID: nothing can be called so
    0xC0000034: errno.ENOENT,  # OBJECT_NAME_NOT_FOUND
    0xC000003A: errno.ENOENT,  # OBJECT_PATH_NOT_FOUND
    0xC000003B: errno.ENOENT,  # OBJECT_PATH_SYNTAX_BAD
    0xC000000F: errno.ENOENT,  # NO_SUCH_FILE
    0xC0000056: errno.ENOENT,  # DELETE_PENDING: it goes when the last who has it open closes it
    0xC0000123: errno.ENOENT,  # FILE_DELETED
    0xC0000035: errno.EEXIST,  # OBJECT_NAME_COLLISION
    0xC0000022: errno.EACCES,  # ACCESS_DENIED
    0xC0000121: errno.EACCES,  # CANNOT_DELETE
    0xC0000061: errno.EPERM,  # PRIVILEGE_NOT_HELD
    0xC0000043: errno.EBUSY,  # SHARING_VIOLATION: a program does not want it to be used by others
    0xC0000054: errno.EBUSY,  # FILE_LOCK_CONFLICT
    0xC0000243: errno.EBUSY,  # USER_MAPPED_FILE: a program has a part of it in its memory
    0xC00000BA: errno.EISDIR,  # FILE_IS_A_DIRECTORY
    0xC0000103: errno.ENOTDIR,  # NOT_A_DIRECTORY
    0xC0000101: errno.ENOTEMPTY,  # DIRECTORY_NOT_EMPTY
    0xC0000106: errno.ENAMETOOLONG,  # NAME_TOO_LONG
    0xC000007F: errno.ENOSPC,  # DISK_FULL
    0xC0000044: errno.EDQUOT,  # QUOTA_EXCEEDED
    0xC00000A2: errno.EROFS,  # MEDIA_WRITE_PROTECTED
    0xC00000D4: errno.EXDEV,  # NOT_SAME_DEVICE
    0xC0000265: errno.EMLINK,  # TOO_MANY_LINKS
    0xC0000904: errno.EFBIG,  # FILE_TOO_LARGE
    0xC000011F: errno.EMFILE,  # TOO_MANY_OPENED_FILES
    0xC0000017: errno.ENOMEM,  # NO_MEMORY
    0xC000009A: errno.ENOMEM,  # INSUFFICIENT_RESOURCES
    0xC0000275: errno.EINVAL,  # NOT_A_REPARSE_POINT
    0xC0000120: errno.ECANCELED,  # CANCELLED
}


class IoStatus(ctypes.Structure):
    """How a call has ended, and how many bytes it was about."""

    _fields_ = (("status", ctypes.c_void_p), ("bytes", ctypes.c_size_t))


class _Text(ctypes.Structure):
    _fields_ = (("length", wintypes.USHORT), ("room", wintypes.USHORT), ("data", ctypes.c_char_p))


class _Object(ctypes.Structure):
    _fields_ = (
        ("size", wintypes.ULONG),
        ("root", wintypes.HANDLE),
        ("name", ctypes.POINTER(_Text)),
        ("flags", wintypes.ULONG),
        ("security", ctypes.c_void_p),
        ("quality", ctypes.c_void_p),
    )


_LIBRARY = ctypes.WinDLL("ntdll")
_STATUS, _ULONG, _HANDLE, _POINTER = ctypes.c_ulong, wintypes.ULONG, wintypes.HANDLE, ctypes.c_void_p
_DONE = ctypes.POINTER(IoStatus)
_DONE_AT_HANDLE = (_HANDLE, _DONE, _POINTER, _ULONG, ctypes.c_int)
_EVENTS = (_HANDLE, _HANDLE, _POINTER, _POINTER, _DONE)  # a handle, and how the end of the call is told

_create = _LIBRARY.NtCreateFile
_create.argtypes = (
    ctypes.POINTER(_HANDLE), _ULONG, ctypes.POINTER(_Object), _DONE, _POINTER,
    _ULONG, _ULONG, _ULONG, _ULONG, _POINTER, _ULONG,
)  # fmt: skip
_create.restype = _STATUS
_close = _LIBRARY.NtClose
_close.argtypes, _close.restype = (_HANDLE,), _STATUS
_query, _set, _query_volume = (
    _LIBRARY.NtQueryInformationFile,
    _LIBRARY.NtSetInformationFile,
    _LIBRARY.NtQueryVolumeInformationFile,
)
for _call in (_query, _set, _query_volume):
    _call.argtypes, _call.restype = _DONE_AT_HANDLE, _STATUS
_read, _write = _LIBRARY.NtReadFile, _LIBRARY.NtWriteFile
for _call in (_read, _write):
    _call.argtypes = (*_EVENTS, _POINTER, _ULONG, ctypes.POINTER(ctypes.c_int64), _POINTER)
    _call.restype = _STATUS
_list = _LIBRARY.NtQueryDirectoryFile
_list.argtypes = (*_EVENTS, _POINTER, _ULONG, ctypes.c_int, wintypes.BOOLEAN, _POINTER, wintypes.BOOLEAN)
_list.restype = _STATUS
_control = _LIBRARY.NtFsControlFile
_control.argtypes = (*_EVENTS, _ULONG, _POINTER, _ULONG, _POINTER, _ULONG)
_control.restype = _STATUS
_flush = _LIBRARY.NtFlushBuffersFile
_flush.argtypes, _flush.restype = (_HANDLE, _DONE), _STATUS


def failed(status: int) -> OSError:
    number = _ERRNO.get(status, errno.EIO)
    return OSError(number, f"{os.strerror(number)} (status {status:#x})")


def _check(status: int, *allowed: int) -> int:
    """The status of a call that has done what it should. Raises OSError."""
    if status and status not in allowed:
        raise failed(status)
    return status


def open_handle(root: int | None, name: str, access: int, disposition: int, options: int) -> int:
    """A handle, to be given to `close`: of a name in an open folder, of that itself where it is empty.

    Without `root` it is a whole path of the kernel's. Others may go on reading, writing and deleting it.
    """
    data = encode(name)
    text = _Text(len(data), len(data), data)
    what = _Object(ctypes.sizeof(_Object), root, ctypes.pointer(text), _ANY_CASE, None, None)
    handle, done = _HANDLE(), IoStatus()
    _check(
        _create(
            ctypes.byref(handle), access | SYNCHRONIZE, ctypes.byref(what), ctypes.byref(done), None,
            NORMAL, _SHARED, disposition, options | IN_TURN | FOR_BACKUP, None, 0,
        )
    )  # fmt: skip
    return int(handle.value or 0)


def close(handle: int) -> None:
    _close(handle)


def query(handle: int, kind: int, size: int) -> bytes:
    """What is known of a file; of what does not fit, the beginning."""
    buffer, done = ctypes.create_string_buffer(size), IoStatus()
    _check(_query(handle, ctypes.byref(done), buffer, size, kind), MORE_DATA)
    return buffer.raw


def change(handle: int, kind: int, data: bytes) -> None:
    """Set what is known of a file."""
    done = IoStatus()
    _check(_set(handle, ctypes.byref(done), data, len(data), kind))


def query_volume(handle: int, kind: int, size: int) -> bytes:
    """What is known of the disk that a file is on; of what does not fit, the beginning."""
    buffer, done = ctypes.create_string_buffer(size), IoStatus()
    _check(_query_volume(handle, ctypes.byref(done), buffer, size, kind), MORE_DATA)
    return buffer.raw


def read(handle: int, size: int, offset: int) -> bytes:
    buffer, done, at = ctypes.create_string_buffer(size), IoStatus(), ctypes.c_int64(offset)
    status = _read(handle, None, None, None, ctypes.byref(done), buffer, size, ctypes.byref(at), None)
    if _check(status, END_OF_DATA) == END_OF_DATA:
        return b""
    return ctypes.string_at(buffer, done.bytes)


def write(handle: int, data: bytes, offset: int) -> int:
    """The bytes written; `offset` -1 is the end, wherever that is by now (wdm.h)."""
    done, at = IoStatus(), ctypes.c_int64(offset)
    _check(_write(handle, None, None, None, ctypes.byref(done), data, len(data), ctypes.byref(at), None))
    return int(done.bytes)


def list_names(handle: int, size: int, *, again: bool) -> bytes:
    """Records of a folder's next names, from the first on with `again`; nothing at the end."""
    buffer, done = ctypes.create_string_buffer(size), IoStatus()
    status = _list(handle, None, None, None, ctypes.byref(done), buffer, size, NAMES, False, None, again)
    if _check(status, NO_MORE_FILES, NO_SUCH_FILE):
        return b""
    return ctypes.string_at(buffer, done.bytes)


def control(handle: int, code: int, data: bytes = b"", room: int = 0) -> bytes:
    """A file system's answer to a request; of what does not fit, the beginning."""
    buffer, done = ctypes.create_string_buffer(room) if room else None, IoStatus()
    status = _control(
        handle, None, None, None, ctypes.byref(done), code, data or None, len(data), buffer, room
    )
    _check(status, MORE_DATA)
    return ctypes.string_at(buffer, done.bytes) if buffer is not None else b""


def flush(handle: int) -> None:
    """Return when it is on the disk itself."""
    done = IoStatus()
    _check(_flush(handle, ctypes.byref(done)))
