"""Files that stay open on the host for a moment after the guest has closed them.

Those that were read, as far as the host says so, in order that opening one again costs no round trip:
programs read the same files again and again. And for some milliseconds those that were written, as far as the
host marks their handles, in order that it is told of many at once: who unpacks an archive, or builds, closes
one after the other. What ends a lock is never kept.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from proa_guest.fuse import CLOSED_LATE

MOST = 1024  # descriptors of the host's: what a compiler or git goes through again and again
MOST_LATE = 64  # after which the host is told with the next request
TOLD = 1024  # handles that are told of once more where a stream broke: more than can have been lost with it


class KeptOpen:
    """Files by their node's number, handles by the host's number for them, times in seconds."""

    def __init__(self) -> None:
        self._in_use: dict[int, set[int]] = {}  # files, and their handles that may be kept
        # Handle to file, and when it was closed; the oldest is first.
        self._kept: OrderedDict[int, tuple[int, float]] = OrderedDict()
        self._of: dict[int, list[int]] = {}  # file to its kept handles
        self._gone: list[int] = []
        self._late: list[int] = []
        self._told: deque[int] = deque(maxlen=TOLD)

    def __len__(self) -> int:
        return len(self._kept)

    def may_keep(self, node: int, handle: int) -> None:
        """The host has just opened it, and need not be told at once when it is closed."""
        self._in_use.setdefault(node, set()).add(handle)

    def open(self, node: int) -> int | None:
        """A handle that is there already."""
        handles = self._of.get(node)
        if not handles:
            return None
        handle = handles.pop()
        if not handles:
            del self._of[node]
        del self._kept[handle]
        self.may_keep(node, handle)
        return handle

    def close(self, node: int, handle: int, now: float) -> bool:
        """Whether the host need not be told yet."""
        in_use = self._in_use.get(node, set())
        if handle not in in_use:
            return False
        in_use.remove(handle)
        if not in_use:
            del self._in_use[node]
        self._kept[handle] = node, now
        self._of.setdefault(node, []).append(handle)
        if len(self._kept) > MOST:
            self._end(next(iter(self._kept)))
        return True

    def close_late(self, handle: int) -> bool:
        """Whether the host may be told later that it is closed: `late` says how many that are by now."""
        if not handle & CLOSED_LATE:
            return False
        self._late.append(handle)
        return True

    @property
    def late(self) -> int:
        return len(self._late)

    def drop(self, node: int) -> None:
        """The file has changed, or is known no more: what is open may be all that is left of it."""
        for handle in tuple(self._of.get(node, ())):
            self._end(handle)
        self._in_use.pop(node, None)

    def drop_since(self, when: float) -> None:
        """What was closed at that time or before, and not opened again."""
        for handle, (_, since) in tuple(self._kept.items()):
            if since > when:
                return
            self._end(handle)

    def drop_all(self) -> None:
        """The host may be another one, and not have heard the last that the one before was told."""
        self._gone += [*self._told, *self._kept]
        self._told.clear()
        self._in_use.clear()
        self._kept.clear()
        self._of.clear()

    def gone(self, *, all_of_them: bool = False) -> list[int]:
        """Handles that the host is to close, each told once: none while there are but a few late ones."""
        if not (self._gone or all_of_them or len(self._late) >= MOST_LATE):
            return []
        gone, self._gone, self._late = self._gone + self._late, [], []
        self._told.extend(gone)
        return gone

    def _end(self, handle: int) -> None:
        node, _ = self._kept.pop(handle)
        handles = self._of[node]
        handles.remove(handle)
        if not handles:
            del self._of[node]
        self._gone.append(handle)
