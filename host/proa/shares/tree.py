"""From a node to the host's file, and from a name to a node: nothing outside the shares can be reached."""

from __future__ import annotations

import posixpath
import stat
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from proa.model.host_path import folded_name, this_system
from proa.model.link_path import FOLDER, MOST_NAME, from_name
from proa.shares.links import leads_to
from proa.shares.nodes import Identity, Node, Nodes, Place, Root
from proa.shares.owners import Owner, Owners, bits_on_host
from proa.shares.protocol import MAX_NAME, Attributes, Refused
from proa.shares.records import Note
from proa.shares.watches import Watches, stamp
from proa.system import beneath
from proa.system.beneath import Descriptor, Status

FOLDS = this_system().folds
_LINKS = b"/" + FOLDER.encode()


def identity(found: Status) -> Identity:
    return found.st_dev, found.st_ino, found.st_mode >> 12


class OutOfReach(OSError):
    """It is shared, but this process has no right to it: the one that takes its place will have."""


class Reach:
    """What this process can work with, of all that is shared: here, everything."""

    def check(self, root: Root, found: Identity) -> None:
        """A share begins in this folder by now. Raises OutOfReach."""

    def mounted(self, path: bytes) -> None:
        """Another file system is there than before."""


@dataclass(frozen=True)
class Allowed:
    """What may be reached: shared folders, and what is never shared though it lies in one."""

    roots: tuple[Root, ...] = ()
    never: tuple[bytes, ...] = ()  # absolute paths, of what exists and of what does not yet


@dataclass(frozen=True)
class _Guarded:
    """`Allowed`, by what can be compared at each look-up without a path."""

    roots: dict[bytes, Root] = field(default_factory=dict)
    above: frozenset[bytes] = frozenset((b"/",))
    identities: frozenset[Identity] = frozenset()  # of what is never shared
    names: frozenset[tuple[Identity, bytes]] = frozenset()  # the same, by folder and name
    nested: dict[tuple[Identity, bytes], Root] = field(default_factory=dict)  # a share within a share
    inner: dict[Identity, Root] = field(default_factory=dict)  # the same, where a folder has a short name too
    # Folders on the way to those, and how they are called: one that is made later makes this out of date.
    on_the_way: frozenset[Identity] = frozenset()
    ways: frozenset[bytes] = frozenset()


class Located(NamedTuple):
    """A file under one of its names, proved to be the node's."""

    parent: Descriptor
    name: bytes
    found: Status


class Tree:
    """All shares of a machine as one tree, with the host's paths in it."""

    def __init__(
        self,
        allowed: Allowed,
        *,
        keep_owners: bool = True,
        most_folders: int = 1024,
        watches: Watches | None = None,
        reach: Reach | None = None,
        note: Note = lambda record: None,
    ) -> None:
        """`note` is told of all that a server after this one has to know."""
        self.watches = watches if watches is not None else Watches(None)
        self.note = note
        self.nodes = Nodes(most_folders, self.watches.release, note)
        self.owners = Owners(keep=keep_owners, note=note)
        self.opens_no_folders = False  # the guest's kernel can do without
        self.asks_for_locks = False  # it keeps none itself
        self.reach = reach or Reach()
        self._allowed = allowed
        self._guarded = _guard(allowed)
        self._devices: dict[int, int] = {}
        self._lock = threading.Lock()

    def allow(self, allowed: Allowed) -> None:
        """From now on this may be reached."""
        self._allowed, self._guarded = allowed, _guard(allowed)
        for node in self.nodes.all():
            if not self.is_shared(node):
                self.nodes.let_go(node)

    def root(self, path: bytes) -> Root | None:
        """The share that begins there."""
        return self._guarded.roots.get(path)

    def is_above(self, path: bytes) -> bool:
        """A folder above all shares."""
        return path in self._guarded.above

    def reaches(self, path: bytes) -> bool:
        """Whether something of a share may lie there or below."""
        return path in self._guarded.roots or self.is_within(path) or bool(self.roots_below(path))

    def is_within(self, path: bytes) -> bool:
        """Whether it lies in a share."""
        return any(path.startswith(root.rstrip(b"/") + b"/") for root in self._guarded.roots)

    def tops_of(self, path: bytes) -> Iterator[tuple[Node, list[bytes]]]:
        """The shared folders that the guest knows and a path may lie in, with the names on the way there."""
        for root in self._guarded.roots:
            start = root.rstrip(b"/") + b"/"
            top = self.nodes.top_of(root) if path.startswith(start) and path != start else None
            if top is not None:
                yield top, path[len(start) :].rstrip(b"/").split(b"/")

    # -- nodes to files -----------------------------------------------------------------------

    def node(self, number: int) -> Node:
        """Raises Refused ESTALE for one that is not known (any more)."""
        node = self.nodes.get(number)
        if node is None:
            raise Refused("ESTALE")
        self.still_shared(node)
        return node

    def is_shared(self, node: Node) -> bool:
        """False for what was shared and is no more."""
        return node.root is None or node.root.path in self._guarded.roots

    def still_shared(self, node: Node) -> None:
        """Raises Refused EACCES for what was shared and is no more."""
        if not self.is_shared(node):
            raise Refused("EACCES")

    def folder(self, node: Node, within: tuple[Node, ...] = ()) -> Descriptor:
        """The folder of the host. `within` is what it is looked for to open. Raises OSError, Refused."""
        held = node.folder
        if held is not None:
            return held
        if node.root is None:
            raise Refused("EROFS")
        if not node.is_folder:
            raise Refused("ENOTDIR")
        if node.is_top:
            opened = self._proved(self._top(node.root), node)
            if opened is not None:
                return opened
        for place, parent in self._places(node, within):
            try:
                opened = self._proved(beneath.open_folder(parent, place[1]), node)
            except (OSError, Refused):
                opened = None
            if opened is not None:
                return opened
            self.nodes.left(node, place)
        raise Refused("ESTALE")

    def _top(self, root: Root) -> Descriptor:
        folder = beneath.open_root(root.path)
        self.reach.check(root, identity(beneath.fstat(folder.number)))
        return folder

    def _places(self, node: Node, within: tuple[Node, ...] = ()) -> Iterator[tuple[Place, Descriptor]]:
        """Where it was last seen. One in a folder that has gone may be true again once that is back.

        Of folders that are moved on both sides at once, each may have been seen in the other.
        """
        way = (*within, node)
        for place in reversed(tuple(node.places)):
            if place[0] in way:
                continue
            try:
                parent = self.folder(place[0], way)
            except OutOfReach:
                raise
            except (OSError, Refused):
                continue
            yield place, parent

    def watched_folder(self, node: Node) -> Descriptor:
        """The folder, whose changes are told from here on if they can be. Raises OSError, Refused."""
        folder = self.folder(node)
        if not node.watch:
            self.watches.cover(node, folder)
        return folder

    def _proved(self, opened: Descriptor, node: Node) -> Descriptor | None:
        if identity(beneath.fstat(opened.number)) != node.identity:
            return None
        self.nodes.keep(node, opened)
        return opened

    def locate(self, node: Node, *, forget: bool = True) -> Located:
        """The file under a name that is still its own. Raises Refused ESTALE, ENOENT, OSError.

        Names that are not are forgotten, unless that they are gone is still to be told.
        """
        if node.is_top or (node.folder is not None and not node.places):
            folder = self.folder(node)
            return Located(folder, b".", beneath.status(folder, b"."))
        for place, parent in self._places(node):
            try:
                found = beneath.status(parent, place[1])
            except (FileNotFoundError, NotADirectoryError):
                found = None
            if found is not None and identity(found) == node.identity:
                return Located(parent, place[1], found)
            if forget:
                self.nodes.left(node, place)
        raise Refused("ESTALE")

    # -- names to nodes -----------------------------------------------------------------------

    def guard(self, parent: Node, name: bytes) -> None:
        """Raises Refused for a name that is never shared, or that lies above all shares."""
        if (parent.identity, folded_name(name) if FOLDS else name) in self._guarded.names:
            raise Refused("EACCES")
        if parent.root is None:
            raise Refused("EROFS")

    def writable(self, node: Node) -> None:
        """Raises Refused EROFS for what is shared for reading only."""
        root = self._guarded.roots.get(node.root.path) if node.root is not None else None
        if root is None or not root.writable:
            raise Refused("EROFS")

    def look_up(self, parent: Node, name: bytes) -> tuple[Node, Attributes]:
        """The file under a name; the guest knows it once more. Raises OSError, Refused."""
        if parent.root is None:
            return self._look_up_above(parent, name)
        self.guard(parent, name)
        folder = self.watched_folder(parent)
        return self.take_in(parent, name, folder, beneath.status(folder, name))

    def take_in(
        self, parent: Node, name: bytes, folder: Descriptor, found: Status
    ) -> tuple[Node, Attributes]:
        """The node of what was just found under a name. Raises Refused for what is never shared."""
        key = identity(found)
        called = folded_name(name) if FOLDS else name
        if called in self._guarded.ways and key not in self._guarded.on_the_way:
            self._guarded = _guard(self._allowed)
        guarded = self._guarded
        if key in guarded.identities:
            raise Refused("EACCES")
        root = None
        if guarded.nested:
            root = guarded.nested.get((parent.identity, called)) or guarded.inner.get(key)
        assert parent.root is not None
        if stat.S_ISLNK(found.st_mode):
            self._another_link(key, found)
        node = self.nodes.seen(key, root or parent.root, (parent, name))
        if not node.watch and self._wants_a_watch(found):
            self.watches.cover(node, folder, name)
            if node.watch:
                found = beneath.status(folder, name)
                if identity(found) != key:
                    self.watches.release(node)  # another one was put in its place this moment
                    raise Refused("ESTALE")
        return node, self.attributes(node, Located(folder, name, found))

    def _another_link(self, key: Identity, found: Status) -> None:
        """Where a link leads never changes, so the guest's kernel keeps it: one with other times is another.

        It got the number of one that has gone, which is yet to be told.
        """
        known = self.nodes.known(key)
        if known is not None and known.told is not None and known.told[:2] != stamp(found)[:2]:
            self.nodes.ended(known)

    def _wants_a_watch(self, found: Status) -> bool:
        """A folder, and a file whose other names may be in folders that the guest does not know."""
        mode = found.st_mode
        return stat.S_ISDIR(mode) or (found.st_nlink > 1 and stat.S_ISREG(mode))

    def _look_up_above(self, parent: Node, name: bytes) -> tuple[Node, Attributes]:
        path = parent.above.rstrip(b"/") + b"/" + name
        if path == _LINKS:
            node = self.nodes.seen_above(path)
            return node, self.attributes_above(node)
        if parent.above == _LINKS:
            self._made_up_target(path)
            node = self.nodes.made_up(path)
            return node, self.attributes_above(node)
        root = self._guarded.roots.get(path)
        if root is not None:
            self._watch_way(parent)
            folder = self._top(root)
            found = beneath.fstat(folder.number)
            if identity(found) in self._guarded.identities:
                raise Refused("EACCES")
            node = self.nodes.seen(identity(found), root, None)
            if node.folder is None:
                self.nodes.keep(node, folder)
            return node, self.attributes(node, Located(folder, b".", found))
        if path not in self._guarded.above:
            raise Refused("ENOENT")
        node = self.nodes.seen_above(path)
        return node, self.attributes_above(node)

    def most_name(self, folder: Node) -> int:
        """How many bytes a name in it may have."""
        return MOST_NAME if folder.above == _LINKS else MAX_NAME

    def link_target(self, node: Node) -> bytes:
        """Where a link leads. Raises OSError, Refused."""
        if node.is_made_up:
            return self._made_up_target(node.above)
        at = self.locate(node)
        return beneath.link_target(at.parent, at.name)

    def _made_up_target(self, path: bytes) -> bytes:
        """Where a link among _LINKS leads just now, from there on. Raises Refused ENOENT, OSError."""
        meant = from_name(posixpath.basename(path))
        target = leads_to(meant, self._may_follow) if meant is not None else None
        if target is None or not self._is_within(target):
            raise Refused("ENOENT")
        return b".." + target

    def _may_follow(self, path: bytes) -> bool:
        return posixpath.dirname(path) in self._guarded.above or self._is_within(path)

    def _is_within(self, path: bytes) -> bool:
        """Whether a path without links is in a share, and nothing that is never shared."""
        return any(_lies_in(path, root) for root in self._guarded.roots) and not any(
            _lies_in(path, never) for never in self._allowed.never
        )

    def _watch_way(self, node: Node) -> None:
        """Be told when this folder above all shares is another, or what leads to it: it is watched then."""
        if self.watches.by_path:
            return  # that is told of shares only
        way = node.above.split(b"/")[1:] if node.above != b"/" else []
        for length in range(len(way) + 1):
            path = b"/" + b"/".join(way[:length])
            above = self.nodes.get_above(path)
            if above is None:
                return
            if not above.watch:
                try:
                    self.watches.cover(above, beneath.open_root(path))
                except OSError:
                    return
            if not above.watch:
                return

    def roots_below(self, path: bytes) -> list[bytes]:
        """The shared folders that are there, or below."""
        start = path.rstrip(b"/") + b"/"
        return [root for root in self._guarded.roots if (root + b"/").startswith(start)]

    def names_above(self, node: Node) -> list[bytes]:
        """What lies in a folder above all shares: the ways that lead to them."""
        start = node.above.rstrip(b"/") + b"/"
        ways = [*self._guarded.above, *self._guarded.roots]
        return sorted({way[len(start) :].split(b"/")[0] for way in ways if way.startswith(start)} - {b""})

    def hides(self, parent: Node, name: bytes) -> bool:
        return (parent.identity, folded_name(name) if FOLDS else name) in self._guarded.names

    def hides_any(self, parent: Node) -> bool:
        """Whether a name in that folder is never shared."""
        return any(identity == parent.identity for identity, _ in self._guarded.names)

    # -- what a file shows --------------------------------------------------------------------

    def attributes_of(self, node: Node) -> Attributes:
        """Raises OSError, Refused."""
        if node.root is None:
            return self.attributes_above(node)
        try:
            return self.attributes(node, self.locate(node))
        except Refused:
            handles = node.open
            if not handles:
                raise
            # It has no name any more, but the guest has it open.
            found = beneath.fstat(handles[0].file.number)
            self._tells(node, found)
            return self._shown(found, self._remembered(node))

    def attributes(self, node: Node, at: Located) -> Attributes:
        self._tells(node, at.found)
        return self._shown(at.found, self.owner(node, at))

    def _tells(self, node: Node, found: Status) -> None:
        node.told, before = stamp(found), node.told
        if before is None:  # it has read nothing of it yet
            node.sure = node.told

    def owner(self, node: Node, at: Located) -> Owner | None:
        """What the guest set, where it is still meant: the host's user may have changed the bits since."""
        known = node.owner
        if known is not None and known[0] == at.found.st_ctime_ns:
            return Owner(*known[1]) if known[1] else None
        kept = self.owners.read(at.parent, at.name, at.found)
        # Every change of an attribute changes this time too.
        node.owner = (at.found.st_ctime_ns, (kept.uid, kept.gid, kept.bits) if kept else None)
        return kept

    def _remembered(self, node: Node) -> Owner | None:
        return Owner(*node.owner[1]) if node.owner is not None and node.owner[1] else None

    def _shown(self, found: Status, kept: Owner | None) -> Attributes:
        mode, uid, gid = found.st_mode, found.st_uid, found.st_gid
        if kept is not None:
            uid, gid = kept.uid, kept.gid
            if mode & 0o777 == bits_on_host(kept.bits, folder=stat.S_ISDIR(mode)) or stat.S_ISLNK(mode):
                mode = stat.S_IFMT(mode) | kept.bits
        return Attributes(
            self._inode(found.st_dev, found.st_ino), found.st_size, found.st_blocks,
            found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns,
            mode, found.st_nlink, uid, gid, 0, found.st_blksize,
        )  # fmt: skip

    def inode_of(self, node: Node) -> int:
        return self._inode(node.identity[0], node.identity[1])

    def _inode(self, device: int, inode: int) -> int:
        """One number for the whole tree, though the shares lie on several disks."""
        index = self._devices.get(device)
        if index is None:
            with self._lock:
                index = self._devices.setdefault(device, len(self._devices))
        return inode ^ index << 48

    def attributes_above(self, node: Node) -> Attributes:
        mode, links = (stat.S_IFLNK | 0o777, 1) if node.is_made_up else (stat.S_IFDIR | 0o755, 2)
        return Attributes(node.number, 0, 0, 0, 0, 0, mode, links, 0, 0, 0, 4096)


def _guard(allowed: Allowed) -> _Guarded:
    roots = {root.path: root for root in allowed.roots}
    above = {b"/"}
    for path in roots:
        parts = path.split(b"/")[1:]
        above.update(b"/" + b"/".join(parts[:count]) for count in range(1, len(parts)))
    nested = {}
    for path, root in roots.items():
        if any(path != other and path.startswith(other.rstrip(b"/") + b"/") for other in roots):
            nested.update({key: root for key in _by_parent([path])})
    tops = nested.values() if FOLDS else ()
    way = {
        folder
        for path in (*allowed.never, *(root.path for root in nested.values()))
        for folder in _folders_above(path)
    }
    # A folder above one share may lie in another: there it is a real one.
    return _Guarded(
        roots=roots,
        above=frozenset(above - roots.keys()),
        identities=frozenset(found for path in allowed.never if (found := _identity_of(path))),
        names=frozenset(_by_parent(allowed.never)),
        nested=nested,
        inner={found: root for root in tops if (found := _identity_of(root.path))},
        on_the_way=frozenset(found for folder in way if (found := _identity_of(folder))),
        ways=frozenset(_called(posixpath.basename(folder)) for folder in way),
    )


def _lies_in(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def _folders_above(path: bytes) -> list[bytes]:
    parts = path.split(b"/")[1:-1]
    return [b"/" + b"/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _by_parent(paths: Iterable[bytes]) -> list[tuple[Identity, bytes]]:
    found = []
    for path in paths:
        folder, name = posixpath.split(path)
        parent = _identity_of(folder)
        if parent is not None:
            found.append((parent, _called(name)))
    return found


def _called(name: bytes) -> bytes:
    """What names are compared as: where the disk takes `A` and `a` for one, so must be what is kept back."""
    return folded_name(name) if FOLDS else name


def _identity_of(path: bytes) -> Identity | None:
    try:
        return identity(beneath.status_at(path))
    except OSError:
        return None  # it is not there, so nothing of it can be reached
