"""Folders as the guest reads them."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable

assert sys.platform != "win32"  # as proa.system.beneath

from proa.shares import protocol
from proa.shares.handles import Body, Handles
from proa.shares.nodes import Listing, Node
from proa.shares.protocol import Refused, Request, fields
from proa.shares.tree import Tree
from proa.system import beneath


class Listings:
    """Answers what is asked of folders that are open; `entry` makes the reply that tells of a node."""

    def __init__(
        self, tree: Tree, handles: Handles, entry: Callable[[Node, protocol.Attributes, Node], bytes]
    ) -> None:
        self._tree = tree
        self._handles = handles
        self._entry = entry

    def open(self, request: Request) -> Body:
        node = self._tree.node(request.node)
        if node.root is not None:
            self._tree.folder(node)
        return protocol.OPEN_OUT.pack(self._handles.hold(Listing(node)), 0, 0)

    def _listing(self, request: Request) -> tuple[Listing, list[bytes], int, int]:
        """What is read, its names, where to begin, and how many bytes there is room for."""
        number, offset, size = fields("<QQI20x", request.body)
        listing = self._handles.listing(number)
        if listing.names is None or offset == 0:  # rewinddir reads anew
            node = listing.node
            if node.root is None:
                found = self._tree.names_above(node)
            else:
                every = beneath.names_in(self._tree.watched_folder(node))
                found = [name for name in every if not self._tree.hides(node, name)]
            listing.names = [b".", b"..", *found]
        return listing, listing.names, offset, min(size, protocol.MAX_WRITE)

    def read(self, request: Request) -> Body:
        listing, every, offset, room = self._listing(request)
        out = bytearray()
        for index in range(offset, len(every)):
            mode = 0  # unknown: who needs it asks
            if every[index] in (b".", b"..") or listing.node.root is None:
                mode = stat.S_IFDIR
            # An inode of 0 would be taken for a deleted entry.
            entry = protocol.dirent(1 << 62 | index + 1, index + 1, every[index], mode)
            if len(out) + len(entry) > room:
                break
            out += entry
        return bytes(out)

    def read_plus(self, request: Request) -> Body:
        listing, every, offset, room = self._listing(request)
        out = bytearray()
        nothing = bytes(protocol.ENTRY_OUT.size + protocol.ATTR.size)
        for index in range(offset, len(every)):
            name = every[index]
            length = len(nothing) + protocol.DIRENT.size + (len(name) + 7 & ~7)
            if len(out) + length > room:
                break
            entry, inode, mode = nothing, 1 << 62 | index + 1, stat.S_IFDIR
            if name not in (b".", b".."):
                try:
                    node, attributes = self._tree.look_up(listing.node, name)
                except (OSError, Refused):
                    continue  # it has gone since, or is nobody's to see
                entry, inode, mode = (
                    self._entry(node, attributes, listing.node),
                    attributes.inode,
                    attributes.mode,
                )
            out += entry + protocol.dirent(inode, index + 1, name, mode)
        return bytes(out)
