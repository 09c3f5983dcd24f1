"""Folders as the guest reads them.

A place in a listing is a number that comes from the name alone, so that it means the same to every reader
and to the next server: the guest's kernel keeps listings itself, and opens no folder.
"""

from __future__ import annotations

import bisect
import stat
import zlib
from collections.abc import Callable

from proa.shares import protocol
from proa.shares.handles import Body, Handles
from proa.shares.nodes import Listing, Node
from proa.shares.protocol import Refused, Request, fields
from proa.shares.tree import Tree
from proa.system import beneath

Entry = tuple[int, bytes]  # where the next one begins, and the name
_FIRST = 3  # 1 and 2 are for . and ..
_NOTHING = bytes(protocol.ENTRY_OUT.size + protocol.ATTR.size)  # an entry without a node
_PLACES = (1 << 31) - 1  # what also programs of 32 bits can take


def in_order(names: list[bytes]) -> list[Entry]:
    """Names with the numbers that they have in every listing, but for a few that clash."""
    found: list[Entry] = []
    last = _FIRST
    for place, name in sorted((zlib.crc32(name) % _PLACES, name) for name in names):
        last = max(place, last + 1)
        found.append((last, name))
    return [(1, b"."), (2, b".."), *found]


class Listings:
    """Answers what is asked of folders; `entry` makes the reply that tells of a node."""

    def __init__(
        self, tree: Tree, handles: Handles, entry: Callable[[Node, protocol.Attributes, Node, bytes], bytes]
    ) -> None:
        self._tree = tree
        self._handles = handles
        self._entry = entry

    def open(self, request: Request) -> Body:
        """Raises Refused ENOSYS: the kernel opens none from then on, and keeps listings while they hold."""
        if self._tree.watches.heard and self._tree.opens_no_folders:
            raise Refused("ENOSYS")
        node = self._tree.node(request.node)
        if node.root is not None:
            self._tree.folder(node)
        return protocol.OPEN_OUT.pack(self._handles.hold(Listing(node)), 0, 0)

    def _page(self, request: Request) -> tuple[Node, list[Entry], int, int]:
        """The folder, all of it, the index of what is next, and how many bytes there is room for."""
        number, offset, size = fields("<QQI20x", request.body)
        node = self._handles.listing(number).node if number else self._tree.node(request.node)
        every = node.listing
        if every is None or offset == 0:  # rewinddir reads anew
            every = node.listing = in_order(self._names(node))
        at = bisect.bisect_left(every, (offset + 1,))
        if at == len(every):
            node.listing = None  # it has been read
        return node, every, at, min(size, protocol.MAX_WRITE)

    def _names(self, node: Node) -> list[bytes]:
        if node.root is None:
            return self._tree.names_above(node)
        every = beneath.names_in(self._tree.watched_folder(node))
        return [name for name in every if not self._tree.hides(node, name)]

    def read(self, request: Request) -> Body:
        node, every, at, room = self._page(request)
        out = bytearray()
        for index in range(at, len(every)):
            place, name = every[index]
            mode = 0  # unknown: who needs it asks
            if name in (b".", b"..") or node.root is None:
                mode = stat.S_IFDIR
            # An inode of 0 would be taken for a deleted entry.
            entry = protocol.dirent(1 << 62 | place, place, name, mode)
            if len(out) + len(entry) > room:
                break
            out += entry
        else:
            _all_read(node, every)
        return bytes(out)

    def read_plus(self, request: Request) -> Body:
        folder, every, at, room = self._page(request)
        out = bytearray()
        for index in range(at, len(every)):
            place, name = every[index]
            length = len(_NOTHING) + protocol.DIRENT.size + (len(name) + 7 & ~7)
            if len(out) + length > room:
                break
            entry, inode, mode = _NOTHING, 1 << 62 | place, stat.S_IFDIR
            known = folder.names.get(name) if folder.watch else None
            if known is not None:  # an answer without a node: the guest keeps what it has
                inode, mode = self._tree.inode_of(known), known.identity[2] << 12
            elif name not in (b".", b".."):
                try:
                    node, attributes = self._tree.look_up(folder, name)
                except (OSError, Refused):
                    continue  # it has gone since, or is nobody's to see
                entry, inode, mode = (
                    self._entry(node, attributes, folder, name),
                    attributes.inode,
                    attributes.mode,
                )
            out += entry + protocol.dirent(inode, place, name, mode)
        else:
            _all_read(folder, every)
        return bytes(out)


def whole(tree: Tree, folder: Node, here: list[bytes]) -> tuple[bytes, int]:
    """How a folder reads that has these names, without nodes, and behind which place nothing is left."""
    out = bytearray()
    every = in_order(here)
    for place, name in every:
        known = folder.names.get(name)
        inode, mode = 1 << 62 | place, 0
        if known is not None:
            inode, mode = tree.inode_of(known), known.identity[2] << 12
        elif name in (b".", b".."):
            mode = stat.S_IFDIR
        out += _NOTHING + protocol.dirent(inode, place, name, mode)
    return bytes(out), every[-1][0]


def _all_read(folder: Node, every: list[Entry]) -> None:
    """The guest asks once more, to be told that nothing is left."""
    folder.listing, folder.end = None, every[-1][0]
