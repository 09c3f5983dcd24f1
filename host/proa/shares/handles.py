"""What the guest has open, by the numbers that it has for it."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Mapping

from proa.shares.nodes import Handle, Listing, Node
from proa.shares.protocol import CLOSED_LATE, FrameError, Refused, Request, fields
from proa.shares.records import Closed, Opened
from proa.shares.tree import Tree, identity
from proa.system import beneath
from proa.system.beneath import Descriptor

Body = bytes | memoryview  # of a reply
Way = bool | None  # how it is open: a file for writing or not; None for a folder
MOST_HANDLES = 65536


class Handles:
    """Files and folders that are open. Safe for several threads."""

    def __init__(self, tree: Tree) -> None:
        self.held: dict[int, Handle | Listing] = {}
        self._closed: dict[int, tuple[Node, Way]] = {}  # what the guest still has, but is not shared
        # Never given twice, released or not: the guest may still write to one that was lost to this server.
        self.next_number = 1
        self._tree = tree
        self._lock = threading.Lock()

    def hold(self, handle: Handle | Listing) -> int:
        """The number for it. Raises Refused `EMFILE`, and `EACCES` where it is not shared any more."""
        if len(self.held) + len(self._closed) >= MOST_HANDLES:
            raise Refused("EMFILE")
        number = self.new_number()
        if isinstance(handle, Handle) and handle.writable and not beneath.CLOSING_SETS_TIMES:
            number |= CLOSED_LATE
        self._put(number, handle)
        try:
            self._tree.still_shared(handle.node)  # now that follow_shares would find it
        except Refused:
            self._drop(number)
            raise
        self._tree.note(Opened(number, handle.node.number, _way(handle)))
        return number

    def new_number(self) -> int:
        with self._lock:
            number = self.next_number
            self.next_number += 1
        return number

    def _put(self, number: int, handle: Handle | Listing) -> None:
        with self._lock:
            self._closed.pop(number, None)
            if number in self.held:
                return  # another thread was faster
            self.held[number] = handle
            if isinstance(handle, Handle):
                handle.node.open = (*handle.node.open, handle)

    def _drop(self, number: int) -> None:
        # A thread that is at it keeps its own reference: the descriptor is closed with the last one.
        with self._lock:
            handle = self.held.pop(number, None)
            if isinstance(handle, Handle):
                handle.node.open = tuple(other for other in handle.node.open if other is not handle)

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
        closed = self._closed.get(number)
        if closed is not None:
            self._tree.still_shared(closed[0])
            self._reopen(number, *closed)
        handle = self.held.get(number)
        if handle is not None:
            self._tree.still_shared(handle.node)
        return handle

    def follow_shares(self) -> None:
        """Close what is open in what is not shared any more, so that the host may unmount or remove it.

        What is shared again is opened again; whoever uses a file that has gone meanwhile gets EBADF.
        """
        for number, handle in tuple(self.held.items()):
            if not self._tree.is_shared(handle.node):
                self._closed[number] = handle.node, _way(handle)
                self._drop(number)
        for number, (node, writable) in tuple(self._closed.items()):
            if self._tree.is_shared(node):
                self._reopen(number, node, writable)

    def _reopen(self, number: int, node: Node, writable: Way) -> None:
        """Open it if it is found; else it is tried again when it is used, for it may only have been moved."""
        if writable is None:
            self._put(number, Listing(node))
            return
        try:
            at = self._tree.locate(node, forget=False)
            file = beneath.open_file(at.parent, at.name, os.O_RDWR if writable else os.O_RDONLY)
        except (OSError, Refused):
            return
        self._put_file(number, node, file, writable)

    def _put_file(self, number: int, node: Node, file: Descriptor, writable: bool) -> None:
        if identity(beneath.fstat(file.number)) == node.identity:
            self._put(number, Handle(node, file, writable))

    def all(self) -> list[tuple[int, Node, Way]]:
        """All that the guest has a number for, also what is closed here."""
        held = [(number, handle.node, _way(handle)) for number, handle in self.held.items()]
        return held + [(number, *closed) for number, closed in self._closed.items()]

    def nameless(self) -> list[tuple[int, Descriptor]]:
        """Open files that cannot be opened again, for they have no name any more."""
        return [
            (number, handle.file)
            for number, handle in tuple(self.held.items())
            if isinstance(handle, Handle) and not handle.node.places
        ]

    def restore(
        self, kept: list[tuple[int, Node, Way]], next_number: int, left: Mapping[int, Descriptor]
    ) -> None:
        """Go on with what an earlier server had open, as far as it is shared; `left` is its `nameless`."""
        self._closed.update((number, (node, writable)) for number, node, writable in kept)
        self.next_number = next_number
        for number, node, writable in kept:
            if number in left and writable is not None:
                self._put_file(number, node, left[number], writable)
        self.follow_shares()

    def release(self, request: Request) -> Body:
        [number] = fields("<Q", request.body)
        self._release(number)
        return b""

    def close(self, numbers: Body) -> None:
        """Files that the relay has kept, or has told of late; one that is closed already is left alone.

        Raises FrameError.
        """
        if len(numbers) % 8:
            raise FrameError("a list of handles ends too early")
        for (number,) in struct.iter_unpack("<Q", numbers):
            if number in self.held or number in self._closed:
                self._release(number)

    def _release(self, number: int) -> None:
        self._closed.pop(number, None)
        self._drop(number)
        self._tree.note(Closed(number))


def _way(handle: Handle | Listing) -> Way:
    return handle.writable if isinstance(handle, Handle) else None
