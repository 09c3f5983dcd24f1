"""What the guest has open, by the numbers that it has for it."""

from __future__ import annotations

import itertools
import sys

assert sys.platform != "win32"  # as proa.system.beneath

from proa.shares.nodes import Handle, Listing
from proa.shares.protocol import Refused, Request, fields
from proa.shares.tree import Tree

Body = bytes | memoryview  # of a reply
MOST_HANDLES = 65536


class Handles:
    """Files and folders that are open. Safe for several threads."""

    def __init__(self, tree: Tree) -> None:
        self.held: dict[int, Handle | Listing] = {}
        self._tree = tree
        self._numbers = itertools.count(1)

    @property
    def next_number(self) -> int:
        return max(self.held, default=0) + 1

    def number_from(self, number: int) -> None:
        self._numbers = itertools.count(number)

    def hold(self, handle: Handle | Listing) -> int:
        """The number for it. Raises Refused `EMFILE`."""
        if len(self.held) >= MOST_HANDLES:
            raise Refused("EMFILE")
        number = next(self._numbers)
        self.held[number] = handle
        if isinstance(handle, Handle):
            handle.node.open.append(handle)
        return number

    def file(self, number: int) -> Handle:
        """Raises Refused `EBADF` for what is no open file, and where it is not shared any more."""
        handle = self.held.get(number)
        if not isinstance(handle, Handle):
            raise Refused("EBADF")
        self._tree.still_shared(handle.node)
        return handle

    def release(self, request: Request) -> Body:
        [number] = fields("<Q", request.body)
        handle = self.held.pop(number, None)
        if isinstance(handle, Handle) and handle in handle.node.open:
            handle.node.open.remove(handle)
        return b""
