"""What the guest changes itself, which the watcher tells of like any change of the host's.

Names are told exactly once each, so they are counted off. For content it is enough to compare with how the
guest's last change left the file, if nothing else had changed it before. What is told while the guest is at
a change cannot be told apart until that has ended: then it is looked at.

How a file was left is known by its times, and those have the system's ticks: what the host does to it in
the same one, or before it has been looked at how the guest left it, cannot be seen. So where the host is
busy just then, what was the guest's own is not trusted there either, though nobody is told of a change.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from proa.shares.nodes import Node, Place
from proa.shares.protocol import Refused
from proa.shares.tree import identity
from proa.shares.watches import Watches, stamp
from proa.system.beneath import Status
from proa.system.watching import Kind

BUSY = 0.05  # seconds after a change of the host's in which it may be at the same files
_Key = tuple[int, bytes]


@dataclass(slots=True)
class _UnderWay:
    changes: int = 0
    missed: int = 0  # kinds of changes of its content, meanwhile
    outrun: bool = False  # a change of the name itself was left to it


class OwnChanges:
    """Safe for several threads."""

    def __init__(
        self,
        watches: Watches,
        content: Callable[[Node, bytes, Kind], None],
        node: Callable[[Node, Kind], None],
        name: Callable[[Node, bytes], None],
        overtakes: Callable[[Node, bytes], None],
        doubts: Callable[[Node], None],
    ) -> None:
        """These are told what was missed: a change of what has a name, of a file, and of a name itself.

        And the last two, which names the guest has changed, and of which file that is not sure.
        """
        self._watches = watches
        self._overtakes, self._doubts = overtakes, doubts
        self._busy_until = 0.0  # of the monotonic clock
        self._missed_content, self._missed_node, self._missed_name = content, node, name
        self._lock = threading.Lock()
        self._names: dict[_Key, _UnderWay] = {}

    # -- names --------------------------------------------------------------------------------

    @contextmanager
    def names(self, *changes: tuple[Node, bytes, Kind]) -> Iterator[None]:
        """The guest changes these names in this block, unless it ends with an error."""
        places = {(folder.number, name): (folder, name) for folder, name, _ in changes}
        with self._lock:
            for key in places:
                self._names.setdefault(key, _UnderWay()).changes += 1
            for folder, _, _ in changes:
                folder.renaming += 1
                folder.version = object()
        # Only now: who looks at a name finds that the guest is at it, before that is counted off.
        expected = [change for change in changes if self._watches.expect(*change)]
        names: list[Place] = []
        try:
            yield
            for place in places.values():
                self._overtakes(*place)
        except BaseException:
            # It has not happened: what was counted off for it, or left to it, was the host's.
            names = [change[:2] for change in expected if not self._watches.is_echo(*change)]
            names += [place for key, place in places.items() if self._names[key].outrun]
            raise
        finally:
            with self._lock:
                missed = self._end_names(places)
                for folder, _, _ in changes:
                    folder.renaming -= 1
                    folder.version = object()
            for place in names:
                self._missed_name(*place)
            for place, kind in missed:
                self._missed_content(*place, kind)

    def _end_names(self, places: dict[_Key, Place]) -> list[tuple[Place, Kind]]:
        missed = []
        for key, place in places.items():
            under_way = self._names[key]
            under_way.changes -= 1
            if not under_way.changes:
                del self._names[key]
                if under_way.missed:
                    missed.append((place, Kind(under_way.missed)))
        return missed

    def outruns(self, folder: Node, name: bytes) -> bool:
        """Whether the guest gives the name to a file, or has, later than what is being told of it now."""
        if not self._watches.expects(folder, name):
            return False
        with self._lock:
            under_way = self._names.get((folder.number, name))
            if under_way is not None:
                under_way.outrun = True
        return True

    def defers(self, folder: Node, name: bytes, kind: Kind) -> bool:
        """Whether the guest is changing what has that name: what happened to it is looked at afterwards."""
        with self._lock:
            under_way = self._names.get((folder.number, name))
            if under_way is not None:
                under_way.missed |= kind
            return under_way is not None

    # -- content ------------------------------------------------------------------------------

    @contextmanager
    def content(self, node: Node, found: Callable[[], Status]) -> Iterator[None]:
        """The guest changes content or attributes in this block; `found` is how it looks."""
        # Of a folder nothing but attributes is kept, and whoever changes these is told how they are.
        only_own = node.is_folder or (node.sure is not None and node.sure == _stamp(found))
        with self._lock:
            if not node.changing:
                node.only_own = only_own
            node.changing += 1
            node.changed()
        ended_well = False
        try:
            yield
            ended_well = True
        finally:
            with self._lock:
                missed = self._end_content(node, found, ended_well=ended_well)
            if missed:
                self._missed_node(node, missed)

    def _end_content(self, node: Node, found: Callable[[], Status], *, ended_well: bool) -> Kind:
        """What was told of it meanwhile, if it may have been the host's."""
        node.changing -= 1
        node.changed()
        node.only_own = node.only_own and ended_well
        if node.changing:
            return Kind(0)
        missed, node.missed = Kind(node.missed), 0
        if node.only_own:
            node.own = node.sure = _stamp(found)
            return Kind(0)
        if ended_well:
            node.own = None
        return missed

    def opens(self, node: Node) -> None:
        """The guest may write to it from here on. If it does not, that it is closed is no change either."""
        with self._lock:
            if node.own is None:
                node.own = node.sure

    def made(self, node: Node) -> None:
        """The guest has made it, and is just being told how it looks."""
        node.own = node.sure = node.told

    def is_own(self, node: Node, kind: Kind, found: Callable[[], Status]) -> bool:
        """Whether it is as the guest left it; if the guest is at it just now, that is seen afterwards.

        Also where it has gone since, for that is told as well.
        """
        with self._lock:
            if node.changing:
                node.missed |= kind
                return True
            try:
                now = found()
            except (OSError, Refused):
                return True
            own = node.own == stamp(now) and node.identity == identity(now)
        if own and self.others_are_at_it():
            self._doubts(node)
        return own

    def others_were_at_it(self) -> None:
        """The host has changed something itself."""
        self._busy_until = time.monotonic() + BUSY

    def others_are_at_it(self) -> bool:
        """Whether the host may be changing the same files just now."""
        return time.monotonic() < self._busy_until

    def told(self, node: Node, found: Status, *, content: bool) -> None:
        """The guest is about to be told that it is to ask anew; it looked so before."""
        now = stamp(found)
        self.others_were_at_it()
        with self._lock:
            # Of a change of attributes alone it keeps what it has read, which may be older.
            if content or (node.sure is not None and node.sure[:2] == now[:2]):
                node.sure = now


def _stamp(found: Callable[[], Status]) -> tuple[int, int, int] | None:
    try:
        return stamp(found())
    except (OSError, Refused):
        return None
