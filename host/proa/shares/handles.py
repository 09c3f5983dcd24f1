"""What the guest has open, by the numbers that it has for it."""

from __future__ import annotations

import sys
import threading

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
        self._closed: set[int] = set()  # numbers that the guest still has, of what was shared once
        # Never given twice, released or not: the guest may still write to one that was lost to this server.
        self.next_number = 1
        self._tree = tree
        self._lock = threading.Lock()

    def hold(self, handle: Handle | Listing) -> int:
        """The number for it. Raises Refused `EMFILE`, and `EACCES` where it is not shared any more."""
        if len(self.held) + len(self._closed) >= MOST_HANDLES:
            raise Refused("EMFILE")
        with self._lock:
            number = self.next_number
            self.next_number += 1
        self.held[number] = handle
        try:
            self._tree.still_shared(handle.node)  # now that close_unshared would find it
        except Refused:
            self.held.pop(number, None)
            raise
        if isinstance(handle, Handle):
            handle.node.open.append(handle)
        return number

    def file(self, number: int) -> Handle:
        """Raises Refused `EBADF` for what is no open file, `EACCES` where it is not shared any more."""
        handle = self._find(number)
        if not isinstance(handle, Handle):
            raise Refused("EBADF")
        return handle

    def listing(self, number: int) -> Listing:
        """Raises Refused `EBADF` for what is no open folder, `EACCES` where it is not shared any more."""
        listing = self._find(number)
        if not isinstance(listing, Listing):
            raise Refused("EBADF")
        return listing

    def _find(self, number: int) -> Handle | Listing | None:
        if number in self._closed:
            raise Refused("EACCES")
        handle = self.held.get(number)
        if handle is not None:
            self._tree.still_shared(handle.node)
        return handle

    def close_unshared(self) -> None:
        """Close what is open in what is not shared any more, so that the host may unmount or remove it."""
        for number, handle in tuple(self.held.items()):
            try:
                self._tree.still_shared(handle.node)
            except Refused:
                # A thread that is at it keeps its own reference: the descriptor is closed with the last one.
                self._closed.add(number)
                self.held.pop(number, None)
                handle.node.open.clear()

    def release(self, request: Request) -> Body:
        [number] = fields("<Q", request.body)
        self._closed.discard(number)
        handle = self.held.pop(number, None)
        if isinstance(handle, Handle) and handle in handle.node.open:
            handle.node.open.remove(handle)
        return b""
