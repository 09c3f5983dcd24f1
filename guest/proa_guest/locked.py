"""Closing a file: which of the kernel's requests for it the host has to hear of.

Where the host keeps locks, the kernel asks at each close of each file for those of the process that closes it
to end. Most files have none, and then it is answered here.
"""

from __future__ import annotations

INIT, FLUSH, SETLK, SETLKW = 26, 25, 32, 33  # linux/fuse.h
MOST = 65536  # files


class Locked:
    """The files in which a lock has ever been asked for, by their nodes' numbers."""

    def __init__(self) -> None:
        self._nodes: set[int] = set()
        self._all_known = False  # for the mount is no older than this
        self._asked = 0  # the request that tells whether the host keeps locks at all
        self._host_keeps = False

    def is_nothing(self, op: int, unique: int, node: int) -> bool:
        """Whether it is a FLUSH that ends no lock. To be told of each request."""
        if op == FLUSH:
            if self._host_keeps:
                return self._all_known and node not in self._nodes
            self._asked = unique
        elif op in (SETLK, SETLKW):
            self._nodes.add(node)
            if len(self._nodes) > MOST:
                self._nodes.clear()
                self._all_known = False
        elif op == INIT:
            self._all_known = True
        return False

    def replied(self, unique: int, error: int) -> None:
        """The host has answered a request; only a first FLUSH is looked at."""
        if unique == self._asked and not error:
            self._host_keeps = True
