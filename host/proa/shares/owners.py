"""Owner, mode and special bits as the guest set them, kept beside the file: the host's own do not change.

Kept in the extended attribute that rootless engines use too, as `UID:GID:MODE` with an octal mode; where a
file cannot have one (links, pipes, some file systems), in a table for as long as the server lives.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import threading
from dataclasses import dataclass

from proa.shares.records import Disowned, Note, Owned
from proa.system import beneath
from proa.system.beneath import BITS, Descriptor, Status

KEY = "user.containers.override_stat"
_FORM = re.compile(rb"(\d{1,10}):(\d{1,10}):0?([0-7]{1,7})")
MOST = 1 << 32  # user ids have 32 bits
_MISSING = (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOENT, errno.EPERM, errno.EACCES, errno.ELOOP)


@dataclass(frozen=True, slots=True)
class Owner:
    uid: int
    gid: int
    bits: int  # the twelve of a mode

    def encode(self) -> bytes:
        return b"%d:%d:0%o" % (self.uid, self.gid, self.bits)


def decode(value: bytes) -> Owner | None:
    """What was kept; None for what nobody of ours wrote."""
    found = _FORM.fullmatch(value)
    if found is None:
        return None
    uid, gid, mode = int(found[1]), int(found[2]), int(found[3], 8)
    return Owner(uid, gid, mode & 0o7777) if uid < MOST and gid < MOST else None


def bits_on_host(bits: int, *, folder: bool) -> int:
    """What the host's file gets for the guest's bits: the user keeps access, and nothing is set-uid."""
    return BITS or bits & 0o777 | (0o700 if folder else 0o600)


class Owners:
    """`keep` False: everything belongs to the host's user, whatever the guest asks for."""

    def __init__(self, *, keep: bool, note: Note = lambda record: None) -> None:
        self.keep = keep
        self._note = note
        self._lock = threading.Lock()
        self._table: dict[tuple[int, int], Owner] = {}  # device, inode

    def read(self, parent: Descriptor, name: bytes, found: Status) -> Owner | None:
        """What was kept for the file, of those that can have a value of their own."""
        if not self.keep:
            return None
        if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
            try:
                # To look at all is faster than to be told that there is none.
                if KEY in beneath.list_attributes(parent, name):
                    return decode(beneath.get_attribute(parent, name, KEY))
            except OSError as error:
                if error.errno not in _MISSING:
                    raise
        return self._table.get((found.st_dev, found.st_ino))

    def write(self, parent: Descriptor, name: bytes, found: Status, owner: Owner) -> None:
        """Keep it. Raises OSError: for a full or a read-only disk, and where another file is called so."""
        if not self.keep:
            return
        if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
            try:
                beneath.set_attribute(parent, name, KEY, owner.encode())
            except OSError as error:
                if error.errno not in _MISSING:
                    raise
                # Else it would be kept for whatever gets the number of one that has just been replaced.
                now = beneath.status(parent, name)
                if (now.st_dev, now.st_ino) != (found.st_dev, found.st_ino):
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from error
            else:
                return
        self.put((found.st_dev, found.st_ino), owner)

    def table(self) -> list[tuple[tuple[int, int], Owner]]:
        """What no file can hold itself."""
        with self._lock:
            return list(self._table.items())

    def put(self, key: tuple[int, int], owner: Owner) -> None:
        """`key`: device and inode."""
        with self._lock:
            self._table[key] = owner
            self._note(Owned(*key, owner.uid, owner.gid, owner.bits))

    def forget(self, device: int, inode: int) -> None:
        """The file's last name is gone, or this is a new one."""
        if self._table:
            with self._lock, contextlib.suppress(KeyError):
                del self._table[device, inode]
                self._note(Disowned(device, inode))
