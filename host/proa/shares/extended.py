"""Extended attributes: the guest's own (`user.`), on the host's files."""

from __future__ import annotations

import errno
import os
import struct
from contextlib import AbstractContextManager

from proa.shares import protocol
from proa.shares.handles import Body
from proa.shares.own import OwnChanges
from proa.shares.owners import KEY
from proa.shares.protocol import Refused, Request, fields, names
from proa.shares.tree import Located, Tree
from proa.system import beneath


class Extended:
    """Answers what is asked of extended attributes. Safe for several threads."""

    def __init__(self, tree: Tree, own: OwnChanges) -> None:
        self._tree = tree
        self._own = own

    def _attribute(self, request: Request, offset: int) -> tuple[str, Located]:
        [name] = names(request.body, offset, 1)
        key = os.fsdecode(name)
        if not key.startswith("user.") or key == KEY:
            # What tools ask of every file, and find on few: capabilities, ACLs, labels.
            raise Refused("ENODATA" if key.startswith(("security.", "user.")) else "EOPNOTSUPP")
        return key, self._tree.locate(self._tree.node(request.node))

    def get(self, request: Request) -> Body:
        [size] = fields("<I4x", request.body)
        key, at = self._attribute(request, 8)
        return _sized(beneath.get_attribute(at.parent, at.name, key), size)

    def list(self, request: Request) -> Body:
        [size] = fields("<I4x", request.body)
        node = self._tree.node(request.node)
        if node.root is None:
            return _sized(b"", size)
        at = self._tree.locate(node)
        keys = [key for key in beneath.list_attributes(at.parent, at.name) if key.startswith("user.")]
        return _sized(b"".join(os.fsencode(key) + b"\0" for key in keys if key != KEY), size)

    def set(self, request: Request) -> Body:
        size, flags = fields("<II", request.body)
        self._tree.writable(self._tree.node(request.node))
        [name] = names(request.body, 8, 1)
        if not name.startswith(b"user.") or os.fsdecode(name) == KEY:
            raise Refused("EOPNOTSUPP")
        key, at = self._attribute(request, 8)
        value = bytes(request.body[8 + len(name) + 1 :])
        if len(value) != size:
            raise protocol.FrameError("an attribute's value has another size than it says")
        with self._changing(request, at):
            beneath.set_attribute(at.parent, at.name, key, value, flags)
        return b""

    def _changing(self, request: Request, at: Located) -> AbstractContextManager[None]:
        node = self._tree.node(request.node)
        return self._own.content(node, lambda: beneath.status(at.parent, at.name))

    def remove(self, request: Request) -> Body:
        self._tree.writable(self._tree.node(request.node))
        key, at = self._attribute(request, 0)
        with self._changing(request, at):
            beneath.remove_attribute(at.parent, at.name, key)
        return b""


def _sized(value: bytes, size: int) -> bytes:
    """An attribute's value, or its size for who asks with no room."""
    if size == 0:
        return struct.pack("<I4x", len(value))
    if len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value
