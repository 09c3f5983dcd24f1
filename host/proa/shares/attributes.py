"""Size, times, owner and mode of files, as the guest asks for and sets them."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable

from proa.shares import protocol
from proa.shares.handles import Body, Handles
from proa.shares.nodes import Handle, Listing, Node
from proa.shares.own import OwnChanges
from proa.shares.owners import Owner, bits_on_host
from proa.shares.protocol import Refused, Request, SetAttr, fields
from proa.shares.tree import Located, Tree
from proa.system import beneath
from proa.system.beneath import Descriptor, Status


class Attributes:
    """Answers what is asked of attributes; `valid` tells for how many seconds the guest may trust them."""

    def __init__(
        self,
        tree: Tree,
        handles: Handles,
        own: OwnChanges,
        valid: Callable[[Node, protocol.Attributes], int],
    ) -> None:
        self._tree = tree
        self._handles = handles
        self._own = own
        self._valid = valid

    def kill_privileges(self, node: Node, at: Located | Descriptor) -> None:
        """Somebody without rights writes to it: no set-uid from here on."""
        self._set_owner(node, at, SetAttr.KILL_SUIDGID, (0, 0, 0))

    def get(self, request: Request) -> Body:
        node = self._tree.node(request.node)
        if node.root is not None and not node.watch and node.is_folder:
            self._tree.watched_folder(node)
        attributes = self._tree.attributes_of(node)
        return protocol.attr_out(attributes, self._valid(node, attributes))

    def set(self, request: Request) -> Body:
        node = self._tree.node(request.node)
        self._tree.writable(node)
        (valid, handle, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, uid, gid) = fields(
            "<I4xQQQQQQIIII4xII4x", request.body
        )
        flags = SetAttr(valid & 0xFFF)
        at = self.named_or_open(node)
        found = at.found if isinstance(at, Located) else beneath.fstat(at.number)
        with self._own.content(node, lambda: look(at)):
            if flags & SetAttr.SIZE:
                held = self._handles.held.get(handle) if flags & SetAttr.FH else None
                # Only of this node: another's share may be one for reading only by now.
                self._truncate(at, held if held is not None and held.node is node else None, size)
            if flags & (SetAttr.MODE | SetAttr.UID | SetAttr.GID | SetAttr.KILL_SUIDGID):
                self._set_owner(node, at, flags, (mode, uid, gid))
            if flags & (SetAttr.ATIME | SetAttr.MTIME):
                access = _time(flags, SetAttr.ATIME, SetAttr.ATIME_NOW, atime, atime_ns)
                change = _time(flags, SetAttr.MTIME, SetAttr.MTIME_NOW, mtime, mtime_ns)
                _set_times(
                    at,
                    (
                        found.st_atime_ns if access is None else access,
                        found.st_mtime_ns if change is None else change,
                    ),
                )
            attributes = self._tree.attributes_of(node)
        return protocol.attr_out(attributes, self._valid(node, attributes))

    def named_or_open(self, node: Node) -> Located | Descriptor:
        """The file by a name, or what the guest has open of one that has none any more."""
        try:
            return self._tree.locate(node)
        except Refused:
            handles = node.open
            if not handles:
                raise
            return handles[0].file

    def _truncate(self, at: Located | Descriptor, handle: Handle | Listing | None, size: int) -> None:
        if isinstance(handle, Handle) and handle.writable:
            beneath.truncate(handle.file.number, size)
        elif isinstance(at, Located):
            file = beneath.open_file(at.parent, at.name, os.O_WRONLY)  # open for as long as it is held
            beneath.truncate(file.number, size)
        else:
            beneath.truncate(at.number, size)

    def _set_owner(
        self, node: Node, at: Located | Descriptor, flags: SetAttr, wanted: tuple[int, int, int]
    ) -> None:
        shown = self._tree.attributes(node, at) if isinstance(at, Located) else self._tree.attributes_of(node)
        bits = wanted[0] & 0o7777 if flags & SetAttr.MODE else shown.mode & 0o7777
        if flags & SetAttr.KILL_SUIDGID or (
            flags & (SetAttr.UID | SetAttr.GID) and not flags & SetAttr.MODE and stat.S_ISREG(shown.mode)
        ):
            bits = without_privileges(bits)
        owner = Owner(
            wanted[1] if flags & SetAttr.UID else shown.uid,
            wanted[2] if flags & SetAttr.GID else shown.gid,
            bits,
        )
        plain = bits_on_host(bits, folder=stat.S_ISDIR(shown.mode))
        if not isinstance(at, Located):
            beneath.set_mode_of(at.number, plain)
            found = beneath.fstat(at.number)  # the last that is known of its owner goes with the file
            node.owner = (found.st_ctime_ns, (owner.uid, owner.gid, owner.bits))
            return
        if not stat.S_ISLNK(at.found.st_mode) and at.found.st_mode & 0o7777 != plain:
            beneath.set_mode(at.parent, at.name, plain)
        self._tree.owners.write(at.parent, at.name, at.found, owner)
        node.owner = None  # where only the table holds it, no time on disk tells


def without_privileges(bits: int) -> int:
    """A mode after a write: no set-uid, and no set-gid where the group may execute."""
    return bits & ~(stat.S_ISUID | (stat.S_ISGID if bits & stat.S_IXGRP else 0))


def look(at: Located | Descriptor) -> Status:
    return beneath.status(at.parent, at.name) if isinstance(at, Located) else beneath.fstat(at.number)


def _time(flags: SetAttr, is_set: SetAttr, is_now: SetAttr, whole: int, rest: int) -> int | None:
    """In nanoseconds; None for one that is to stay."""
    if flags & is_now:
        return time.time_ns()
    if not flags & is_set:
        return None
    return (whole - (1 << 64) if whole >> 63 else whole) * 1_000_000_000 + rest  # before 1970: negative


def _set_times(at: Located | Descriptor, times: tuple[int, int]) -> None:
    """Access and change, in nanoseconds."""
    if isinstance(at, Located):
        beneath.set_times(at.parent, at.name, times)
    else:
        beneath.set_times_of(at, times)
