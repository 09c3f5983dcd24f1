"""Records that Windows fills buffers with: lists of names, changes in folders, and where links lead. Pure."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from proa.system.watching import Kind
from proa.system.windows_names import REMOVED, decode, to_guest

# ntifs.h, FILE_NAMES_INFORMATION: where the next one begins (0: it is the last), an index, bytes of the name.
_NAME = struct.Struct("<3I")
# winnt.h, FILE_NOTIFY_INFORMATION: where the next one begins, what happened, bytes of the name.
_CHANGE = struct.Struct("<3I")
# winnt.h, FILE_ACTION_*. Whether content or attributes were modified is not told.
_ACTIONS = {
    1: Kind.CREATED,
    2: Kind.DELETED,
    3: Kind.MODIFIED,
    4: Kind.MOVED_FROM,
    5: Kind.MOVED_TO,
}
# ntifs.h, REPARSE_DATA_BUFFER: the tag, and the bytes of what follows it.
_REPARSE = struct.Struct("<IH2x")
# Its form for symbolic links: where the target and its printed form begin, their lengths, and flags; for
# mount points there are no flags.
_SYMLINK, _MOUNT_POINT = struct.Struct("<4HI"), struct.Struct("<4H")
# ntifs.h, IO_REPARSE_TAG_*; the last three are what the Linux subsystem of Windows makes.
SYMLINK, MOUNT_POINT = 0xA000000C, 0xA0000003
LX_SYMLINK, LX_PIPE, LX_SOCKET = 0xA000001D, 0x80000024, 0x80000023
_STANDS_FOR_ANOTHER = 0x20000000  # a bit of tags: whoever follows it comes to another file
_LX_VERSION = struct.pack("<I", 2)  # as WSL and Cygwin write it before a link's target
_NATIVE = "\\??\\"  # before a path of the kernel's


def names(data: bytes) -> list[str]:
    """Of a buffer of FILE_NAMES_INFORMATION, without `.` and `..`. Raises ValueError."""
    every = (name for _, name in _records(_NAME, data))
    return [name for name in every if name not in (".", "..") and not name.startswith(REMOVED)]


def changes(data: bytes) -> list[tuple[Kind, bytes]]:
    """What happened, and to which path in the folder as the guest has it, in order. Raises ValueError.

    The format is in Microsoft's documentation of ReadDirectoryChangesW and FILE_NOTIFY_INFORMATION.
    """
    return [
        (_ACTIONS[action], b"/".join(map(to_guest, path.split("\\"))))
        for action, path in _records(_CHANGE, data)
        if action in _ACTIONS and not path.rpartition("\\")[2].startswith(REMOVED)
    ]


def _records(form: struct.Struct, data: bytes) -> Iterator[tuple[int, str]]:
    at = 0
    while True:
        if at + form.size > len(data):
            raise ValueError("a record ends too early")
        step, number, length = form.unpack_from(data, at)
        start = at + form.size
        if start + length > len(data) or length % 2:
            raise ValueError("a name ends too early")
        yield number, decode(data[start : start + length])
        if not step:
            return
        at += step


@dataclass(frozen=True, slots=True)
class Reparse:
    """What is instead of a file's content: a tag that tells of what kind it is, and what belongs to that."""

    tag: int
    data: bytes = b""

    @classmethod
    def read(cls, buffer: bytes) -> Reparse:
        """Raises ValueError."""
        if len(buffer) < _REPARSE.size:
            raise ValueError("a reparse point ends too early")
        tag, length = _REPARSE.unpack_from(buffer)
        return cls(tag, buffer[_REPARSE.size : _REPARSE.size + length])

    def buffer(self) -> bytes:
        return _REPARSE.pack(self.tag, len(self.data)) + self.data

    @property
    def stands_for_another(self) -> bool:
        return bool(self.tag & _STANDS_FOR_ANOTHER)

    def target(self) -> bytes:
        """Where a link leads, as the guest writes it. Raises OSError EINVAL for what is no link."""
        if self.tag == LX_SYMLINK:
            return self.data[len(_LX_VERSION) :]
        form = {SYMLINK: _SYMLINK, MOUNT_POINT: _MOUNT_POINT}.get(self.tag)
        if form is None or len(self.data) < form.size:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        start, length, *_ = form.unpack_from(self.data)
        text = decode(self.data[form.size + start : form.size + start + (length & ~1)])
        return _as_guest_has_it(text.removeprefix(_NATIVE))


def link(target: bytes) -> Reparse:
    """A link of the kind that WSL makes: any bytes may be its target, and nobody needs a right for it."""
    return Reparse(LX_SYMLINK, _LX_VERSION + target)


def _as_guest_has_it(path: str) -> bytes:
    names = path.split("\\")
    if len(names[0]) == 2 and names[0][1] == ":" and names[0][0].isascii():
        names[:1] = ["", names[0][0].lower()]
    return b"/".join(
        b"" if not name else name.encode() if name in (".", "..") else to_guest(name) for name in names
    )
