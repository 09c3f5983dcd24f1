"""The files that the guest knows: by number, by identity, and by every name they were seen under.

A node is one file of the host's, whatever it is called; its names are hints, and each is proved by the
file's identity when it is used. Folders keep a descriptor for a while, so that a file costs one call.
"""

from __future__ import annotations

import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proa.model.host_path import folded_name
from proa.shares.protocol import ROOT
from proa.shares.records import Dropped, Known, Left, Note, Placed, text

if TYPE_CHECKING:
    from collections.abc import Callable

    from proa.system.beneath import Descriptor

Identity = tuple[int, int, int]  # device, inode, type: st_mode >> 12
Place = tuple["Node", bytes]  # a folder, and a name in it
MOST_WENT = 1024  # folders whose last names are kept; as many can move while a change of one is being told
Stamp = tuple[int, int, int]  # size, time of change of content and of anything, in nanoseconds


@dataclass(frozen=True)
class Root:
    """A shared folder: the top of what the guest may reach."""

    path: bytes  # absolute
    writable: bool = True


@dataclass(eq=False, slots=True)
class Handle:
    """A file that the guest has open."""

    node: Node
    file: Descriptor
    writable: bool


@dataclass(eq=False, slots=True)
class Listing:
    """A folder that the guest reads."""

    node: Node


@dataclass(eq=False, slots=True)
class Node:
    number: int
    identity: Identity
    root: Root | None  # the share that it belongs to; None above all shares
    above: bytes = b""  # the path of a folder above all shares, which is nobody's
    places: dict[Place, None] = field(default_factory=dict)  # the newest last
    lookups: int = 0
    uncounted: bool = False  # the guest knows it oftener than `lookups`, by a server that was killed
    folder: Descriptor | None = None
    open: tuple[Handle, ...] = ()  # replaced, never changed: other threads look at it
    owner: tuple[int, tuple[int, int, int] | None] | None = None  # ctime, and what was kept then
    is_top: bool = False  # the shared folder itself
    watch: int = 0  # what changes in it, or of it, is told with this number; 0: it is not watched
    names: dict[bytes, Node] = field(default_factory=dict)  # what the guest was told of in this folder
    listing: list[tuple[int, bytes]] | None = None  # as it was when somebody began to read it
    told: Stamp | None = None  # the last that the guest was told of it
    own: Stamp | None = None  # how the guest's own last change left it
    sure: Stamp | None = None  # as it was then, the guest has what is in it, or knows that it has not
    changing: int = 0  # changes of the guest's that are under way
    only_own: bool = False  # and nobody else's were, that it has not been told of
    missed: int = 0  # kinds of changes that came meanwhile, as proa.system.watching.Kind
    version: object = None  # another object with each change of it, or in it
    news: object = None  # another object with each of these that the guest is told of
    has_content: object = None  # the version of a file whose content the guest was sent
    renaming: int = 0  # names in it that the guest is changing
    walked: int = 0  # the guest goes from folder to folder in it, and is told of so many names at once
    ahead: bytes = b""  # up to which name in it the guest was told without asking
    end: int = 0  # behind which place of its listing nothing is left; 0: not known

    @property
    def is_made_up(self) -> bool:
        """A link that is only there to lead to a file of a share (proa.shares.links)."""
        return self.root is None and not self.is_folder

    @property
    def is_folder(self) -> bool:
        return self.identity[2] == stat.S_IFDIR >> 12

    def changed(self) -> None:
        """What somebody has just read of it, or of the folders it is in, is not to be told any more."""
        self.version = object()
        for folder, _ in tuple(self.places):
            folder.version = self.version


def as_record(node: Node, place: Place | None = None, *, counted: bool = False) -> Known:
    """What a server after this one has to know of it; `counted` where that goes on from just here."""
    return Known(
        node.number,
        node.identity,
        text(node.root.path) if node.root is not None else None,
        text(node.above),
        node.is_top,
        place[0].number if place is not None else 0,
        text(place[1]) if place is not None else "",
        node.lookups if counted and not node.uncounted else None,
        node.told if counted else None,
        node.own if counted else None,
    )


def _is_last(node: Node, place: Place) -> bool:
    """Whether it is where the node was seen last, and what the guest knows by that name."""
    return next(reversed(node.places), None) == place and place[0].names.get(place[1]) is node


def _is_last_but_for_case(node: Node, place: Place) -> bool:
    folder, name = next(reversed(node.places), (None, b""))
    return folder is place[0] and folded_name(name) == folded_name(place[1])


class Nodes:
    """All nodes. Safe for several threads."""

    def __init__(
        self,
        most_folders: int,
        dropped: Callable[[Node], None] = lambda node: None,
        note: Note = lambda record: None,
    ) -> None:
        """Keeps at most `most_folders` descriptors of folders open; tells of each node that it drops.

        `note` is told of all that a server after this one has to know, after it has been done.
        """
        self._dropped = dropped
        self._note = note
        self.elsewhere: Callable[[Node], None] = lambda node: None  # told of folders found by another name
        self._lock = threading.Lock()
        self._most_folders = most_folders
        self._next = ROOT + 1
        self.top = Node(ROOT, (0, 0, 4), None, b"/", lookups=1)
        self._by_number: dict[int, Node] = {ROOT: self.top}
        self._by_identity: dict[Identity, Node] = {}
        self._above: dict[bytes, Node] = {b"/": self.top}
        self._tops: dict[bytes, Node] = {}  # of the shared folders themselves, by path
        self._folders: OrderedDict[int, Node] = OrderedDict()
        self._went: OrderedDict[Place, Node] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_number)

    @property
    def next_number(self) -> int:
        return self._next

    def number_from(self, number: int) -> None:
        """Give out no smaller number from here on."""
        with self._lock:
            self._next = max(self._next, number)

    def all(self) -> list[Node]:
        with self._lock:
            return list(self._by_number.values())

    def on_several_disks(self) -> bool:
        """Whether the guest knows a folder in a share that is on another disk than what it lies in."""
        return any(
            folder.root is not None and folder.identity[0] != node.identity[0]
            for node in self.all()
            if node.is_folder
            for folder, _ in tuple(node.places)
        )

    def restore(self, nodes: dict[int, Node], next_number: int) -> None:
        """Go on with nodes that an earlier server knew; the top is among them."""
        with self._lock:
            self._by_number = {**nodes, ROOT: nodes.get(ROOT, self.top)}
            self.top = self._by_number[ROOT]
            # Not those without a name: the next file with their number may be another one.
            self._by_identity = {node.identity: node for node in nodes.values() if node.places or node.is_top}
            everything = self._by_number.values()
            self._above = {node.above: node for node in everything if node.root is None and node.is_folder}
            self._tops = {node.root.path: node for node in nodes.values() if node.root and node.is_top}
            self._next = max(next_number, ROOT + 1)

    def get(self, number: int) -> Node | None:
        return self._by_number.get(number)

    def get_above(self, path: bytes) -> Node | None:
        """The node of a folder above all shares."""
        return self._above.get(path)

    def top_of(self, path: bytes) -> Node | None:
        """The node of a shared folder itself."""
        return self._tops.get(path)

    def seen(self, identity: Identity, root: Root, place: Place | None) -> Node:
        """The node of a file that was just looked at under that name; the guest knows it once more."""
        elsewhere = False
        with self._lock:
            node = self._by_identity.get(identity)
            if node is None:
                node = Node(self._next, identity, root)
                self._next += 1
                self._by_number[node.number] = node
                self._by_identity[identity] = node
                if place is not None:
                    self._put(node, place)
                    self._note(as_record(node, place))
            elif place is not None and not _is_last(node, place):
                elsewhere = node.is_folder and not _is_last_but_for_case(node, place)
                self._put(node, place)
                self._note(Placed(node.number, place[0].number, text(place[1])))
            node.lookups += 1
            if place is None:
                self._tops[root.path] = node
            if place is None and not node.is_top:
                node.is_top = True
                self._note(as_record(node))
        if elsewhere:
            self.elsewhere(node)
        return node

    def _put(self, node: Node, place: Place) -> None:
        node.places.pop(place, None)
        node.places[place] = None
        place[0].names[place[1]] = node

    def again(self, node: Node) -> None:
        """The guest knows it once more, even if it had been dropped."""
        with self._lock:
            if self._by_number.get(node.number) is not node:
                self._by_number[node.number] = node
                self._note(as_record(node))
            node.lookups += 1

    def stand_in(self, kind: int) -> Node:
        """For a file that has gone before the guest knew it; `kind` is its type: st_mode >> 12."""
        with self._lock:
            node = Node(self._next, (0, self._next, kind), None)
            self._next += 1
            return node

    def seen_above(self, path: bytes) -> Node:
        """The node of a folder above all shares."""
        with self._lock:
            node = self._above.get(path)
            if node is None:
                node = Node(self._next, (0, self._next, 4), None, path)
                self._next += 1
                self._by_number[node.number] = node
                self._above[path] = node
                self._note(as_record(node))
            node.lookups += 1
            return node

    def made_up(self, path: bytes) -> Node:
        """The node of a link that no folder holds: another one each time, so that it is read each time."""
        with self._lock:
            node = Node(self._next, (0, self._next, stat.S_IFLNK >> 12), None, path, lookups=1)
            self._next += 1
            self._by_number[node.number] = node
            self._note(as_record(node))
            return node

    def known(self, identity: Identity) -> Node | None:
        return self._by_identity.get(identity)

    def forget(self, number: int, count: int, *, unused: bool = False) -> None:
        """The guest knows it `count` times less; with the last it is dropped.

        `unused`: it had been told of it without asking, and its kernel never was.
        """
        with self._lock:
            node = self._by_number.get(number)
            if node is None or node is self.top:
                return
            if unused and node.uncounted and not node.lookups:
                return  # a server that was killed had told of it, and how often is not known
            node.lookups -= count
            # The guest's kernel gives back all of its count at once, when it lets go of a file.
            if node.lookups < 0 or (not node.lookups and not node.uncounted):
                self._drop(node)

    def _drop(self, node: Node) -> None:
        del self._by_number[node.number]
        if self._by_identity.get(node.identity) is node:
            del self._by_identity[node.identity]
        if node.root is None:
            if self._above.get(node.above) is node:
                del self._above[node.above]
        elif self._tops.get(node.root.path) is node:
            del self._tops[node.root.path]
        self._folders.pop(node.number, None)
        node.folder = None
        for parent, name in node.places:
            if parent.names.get(name) is node:
                del parent.names[name]
        node.places.clear()  # a folder above it may go too
        self._note(Dropped(node.number))
        self._dropped(node)

    def found(self, identity: Identity, place: Place) -> None:
        """A file is called so; if it is one that the guest knows, then by another name."""
        with self._lock:
            node = self._by_identity.get(identity)
            if node is not None:
                node.places[place] = None
                self._note(Placed(node.number, place[0].number, text(place[1])))

    def left(self, node: Node, place: Place) -> None:
        """The file is not called so any more."""
        with self._lock:
            self._leave(node, place)

    def went(self, folder: Node, name: bytes) -> Node | None:
        """The folder that was called so, and has been moved not long ago."""
        return self._went.get((folder, name))

    def moved(self, node: Node, old: Place, new: Place) -> None:
        with self._lock:
            if node.is_folder:
                self._went[old] = node
                self._went.move_to_end(old)
                if len(self._went) > MOST_WENT:
                    self._went.popitem(last=False)
            self._leave(node, old)
            self._put(node, new)
            self._note(Placed(node.number, new[0].number, text(new[1])))

    def _leave(self, node: Node, place: Place) -> None:
        node.places.pop(place, None)
        if place[0].names.get(place[1]) is node:
            del place[0].names[place[1]]
        self._note(Left(node.number, place[0].number, text(place[1])))

    def ended(self, node: Node) -> None:
        """Its last name is gone: the next file with its identity is another one."""
        with self._lock:
            if self._by_identity.get(node.identity) is node:
                del self._by_identity[node.identity]

    def keep(self, node: Node, folder: Descriptor) -> None:
        """Remember a folder's descriptor, and let go of the one that was longest unused."""
        with self._lock:
            node.folder = folder
            self._folders[node.number] = node
            self._folders.move_to_end(node.number)
            if len(self._folders) > self._most_folders:
                _, oldest = self._folders.popitem(last=False)
                oldest.folder = None

    def let_go(self, node: Node) -> None:
        """Drop a folder's descriptor, for what it stands for has changed."""
        with self._lock:
            node.folder = None
            self._folders.pop(node.number, None)

    def let_go_all(self, *, but_nameless: bool = False) -> None:
        """Drop all folders' descriptors: each is found again by its place, if it still has one.

        Those that have none are lost by it, though the guest may still be in them.
        """
        with self._lock:
            for node in tuple(self._folders.values()):
                if not but_nameless or node.places or node.is_top:
                    node.folder = None
                    del self._folders[node.number]
