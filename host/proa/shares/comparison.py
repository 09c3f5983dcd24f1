"""What the guest knows, compared with what is there: after changes that nobody told of, and where the system
tells only at which paths something may have changed.

Some systems tell several changes of a path as one, and some time after they were made, so nothing can be
counted there (own.py): what the guest made itself is found to be as the guest left it, and is no news.
"""

from __future__ import annotations

import stat
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from proa.model.host_path import folded_name
from proa.shares.news import News
from proa.shares.nodes import Identity, Node, Place
from proa.shares.notices import Outbox
from proa.shares.own import OwnChanges
from proa.shares.protocol import Refused
from proa.shares.tree import Tree, identity
from proa.shares.watches import stamp
from proa.system import beneath
from proa.system.beneath import Status
from proa.system.watching import CONTENT, Change, Kind

_GONE = Kind.DELETED | Kind.MOVED_FROM
_COMES = Kind.CREATED | Kind.MOVED_TO
MOST_TOLD = 4096  # names, of which it is known how they were last told
_WRITTEN = Kind.MODIFIED | Kind.CLOSED  # those who wait for an end of writing wait for it everywhere
_TRIES = 8  # to see a name while the guest is not at its folder


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the guest knows by a name, and what is there."""

    place: Place
    kind: Kind
    known: Node | None
    found: Status | None
    own: bool = False  # the guest has changed it since it was last looked at

    @property
    def is_same(self) -> bool:
        return (
            self.known is not None and self.found is not None and self.known.identity == identity(self.found)
        )


class Comparison:
    """Safe for several threads."""

    def __init__(self, tree: Tree, outbox: Outbox, own: OwnChanges, news: News) -> None:
        self._tree = tree
        self._outbox = outbox
        self._own = own
        self._news = news
        self._names_told: OrderedDict[Place, Identity | None] = OrderedDict()
        self._lock = threading.Lock()

    # -- places at which something may have changed -------------------------------------------

    def look(self, changes: Iterable[Change], since: int) -> None:
        """Look at the paths that these changes name. What the guest does not know of is not looked at.

        They were made after `since`: nanoseconds of the host's clock.
        """
        kinds: dict[Place, Kind] = {}
        for change in changes:
            self._top(change)
            for place in tuple(self._places(change.name)) or self._other_names(change.name):
                kinds[place] = kinds.get(place, Kind(0)) | change.kind
        self.look_at(kinds, since)

    def _top(self, change: Change) -> None:
        """A shared folder itself may have changed."""
        top = self._tree.nodes.top_of(change.name)
        if top is None:
            return
        if not self._own.is_own(top, change.kind, lambda: self._tree.locate(top).found):
            self._outbox.inode(top, content=False)

    def look_at(self, kinds: dict[Place, Kind], since: int) -> None:
        """With what is said to have happened there: only what cannot be seen is taken from that."""
        with self._lock:
            # From the top down, for what moves takes along what is in it.
            places = sorted(kinds, key=lambda place: self._depth(place[0]))
            seen = [found for place in places if (found := self._see(place, kinds[place])) is not None]
            gone = [one for one in seen if not self._is_told(one, since)]
            for one in reversed(gone):
                self._gone(one)

    def _places(self, path: bytes) -> Iterator[Place]:
        """The names of the guest's that a path may mean: several where `A` and `a` are one file."""
        for top, rest in self._tree.tops_of(path):
            *way, name = rest
            folders = [top]
            for part in way:
                folders = [inner for folder in folders for inner in self._led_to(folder, part)]
            for folder in folders:
                if folder.is_folder:
                    for found in self._alike(folder, name) or [name]:
                        yield folder, found

    def _other_names(self, path: bytes) -> tuple[Place, ...]:
        """How the guest calls a file with several names, of which this is in a folder that it does not know.

        The path is only looked at: wherever it may lead, nothing comes of it but another look at those.
        """
        try:
            found = beneath.status_at(path, follow=False)
        except OSError:
            return ()
        node = self._tree.nodes.known(identity(found)) if found.st_nlink > 1 else None
        if node is None or node.is_folder:
            return ()
        self._outbox.inode(node, content=False)  # from its count of names the guest learns not to trust it
        return tuple(node.places)

    def _led_to(self, folder: Node, name: bytes) -> list[Node]:
        """What is called so in a folder, and what was before it moved: changes may be told late."""
        known = [
            found for alike in self._alike(folder, name) if (found := folder.names.get(alike)) is not None
        ]
        went = self._tree.nodes.went(folder, name)
        return [*known, went] if went is not None else known

    def _alike(self, folder: Node, name: bytes) -> list[bytes]:
        """What the guest calls it: names in any case where the disk takes them so."""
        if not self._tree.watches.of_any_case(folder):
            return [name] if name in folder.names else []
        wanted = folded_name(name)
        return [known for known in tuple(folder.names) if folded_name(known) == wanted]

    def _depth(self, folder: Node) -> int:
        depth = 0
        while (above := next(reversed(folder.places), None)) is not None and depth < 1000:
            folder, depth = above[0], depth + 1
        return depth

    def _see(self, place: Place, kind: Kind) -> _Seen | None:
        """None where the guest is at it just now: then it is looked at afterwards."""
        folder, name = place
        if self._tree.hides(folder, name):
            return None
        seen, own = None, False
        for _ in range(_TRIES):
            version = folder.version
            if self._own.defers(folder, name, kind):
                if own:
                    self._tree.watches.expect(folder, name, kind)  # what is at it will be told
                return None
            own |= self._tree.watches.is_echo(folder, name, kind)
            found = self._news.status(folder, name)
            seen = _Seen(place, kind, folder.names.get(name), found, own)
            if folder.version is version:
                break
        return seen

    def _is_told(self, one: _Seen, since: int) -> bool:
        """Tell of it, unless it has gone, for it may yet be found elsewhere."""
        place, found = one.place, one.found
        if found is None and one.known is not None:
            return False
        news = not self._was_told(place, found) and not one.own
        if found is None:
            self._outbox.inode(place[0], content=True)  # the listing that the kernel keeps
            self._outbox.entry(*place, expire=True)
            if news and one.kind & _GONE:
                self._news.removed(place, one.kind)
        elif news and (one.kind & _COMES or (one.known is not None and not one.is_same)):
            self._comes(one, found, since)
        elif one.is_same:
            self._same(one, since)
        else:
            self._outbox.inode(place[0], content=True)
            self._outbox.entry(*place, expire=True)
            kind = one.kind | (Kind.CLOSED if one.kind & Kind.MODIFIED else Kind(0))
            self._news.content(*place, kind & CONTENT if not one.own else Kind(0))
        return True

    def _was_told(self, place: Place, found: Status | None) -> bool:
        """Whether that is there by this name, or nothing is, was the last to be told of it.

        It is from here on: systems say again for a while that something came or went.
        """
        now = identity(found) if found is not None else None
        before = self._names_told.get(place, ())
        if self._tree.watches.by_path:
            self._names_told[place] = now
            self._names_told.move_to_end(place)
            if len(self._names_told) > MOST_TOLD:
                self._names_told.popitem(last=False)
        return before == now

    def _same(self, one: _Seen, since: int) -> None:
        """The guest knows what is there: has it changed?"""
        node, found = one.known, one.found
        assert node is not None and found is not None
        if self._own.is_own(node, one.kind, lambda: self._news.look(*one.place)):
            return
        if node.is_folder:
            # What is in it changes its times, and is told by its own name.
            self._news.content(*one.place, one.kind & Kind.ATTRIBUTES)
            if one.kind & Kind.MOVED_FROM:  # and is back
                self._beneath(node, since)
        elif node.sure != stamp(found):
            content = node.sure is None or node.sure[:2] != stamp(found)[:2]
            # A write sets both times: what has changed since is seen now, and not when it is told of.
            attributes = found.st_ctime_ns > found.st_mtime_ns or bool(one.kind & Kind.ATTRIBUTES)
            kind = Kind.ATTRIBUTES if attributes or not content else Kind(0)
            self._news.content(*one.place, kind | (_WRITTEN if content else Kind(0)))

    def _comes(self, one: _Seen, found: Status, since: int) -> None:
        """Something is there that the guest was not told of by this name, though it may have found it."""
        self._outbox.inode(one.place[0], content=True)
        folder = Kind.FOLDER if stat.S_ISDIR(found.st_mode) else Kind(0)
        node = self._tree.nodes.known(identity(found))
        for old in tuple(node.places) if node is not None else ():
            if old == one.place or self._own.defers(*old, Kind.MOVED_FROM) or self._is_at(node, old):
                continue
            self._outbox.inode(old[0], content=True)
            self._was_told(old, None)
            self._news.moved(old, one.place, Kind.MOVED_TO | folder)
            break
        else:
            self._news.made(*one.place, found, replaces=True)
            if one.known is not None and not one.is_same:
                self._not_followed(one.known)
            # It may have been written to since it was made, which is seen now, and not when it is told of.
            filled = bool(found.st_size) and bool(one.kind & Kind.CREATED)
            self._news.written(*one.place, found, one.kind | (_WRITTEN if filled else Kind.CLOSED))
        if node is not None:
            self._own.told(node, found, content=True)
            self._outbox.inode(node, content=True)
            self._beneath(node, since)

    def _is_at(self, node: Node | None, place: Place) -> bool:
        found = self._news.status(*place)
        return node is not None and found is not None and node.identity == identity(found)

    def _gone(self, one: _Seen) -> None:
        node = one.known
        assert node is not None
        folder, name = one.place
        if folder.names.get(name) is not node:
            if name in folder.names or self._was_told(one.place, None):
                return  # moved, which was told with its new name
            # That it is not there was found when something in it was looked for, and told to nobody.
            folder.names[name] = node
        self._outbox.inode(folder, content=True)
        self._was_told(one.place, None)
        lives = self._lives_on(node)
        kind = (Kind.MOVED_FROM if lives else Kind.DELETED) | (Kind.FOLDER if node.is_folder else Kind(0))
        self._news.removed(one.place, kind)
        if node.is_folder or (lives and not node.places):
            self._not_followed(node)

    def _lives_on(self, node: Node) -> bool:
        """Whether it is somewhere else now, as far as that can be seen of what is open."""
        held = node.folder if node.is_folder else node.open[0].file if node.open else None
        try:
            return held is not None and beneath.fstat(held.number).st_nlink > 0
        except OSError:
            return False

    def _not_followed(self, node: Node) -> None:
        """It is where no path that the guest knows leads: what happens in it is not told any more."""
        for inner in self._within(node):
            self._tree.watches.release(inner)
            self._not_trusted(inner)

    def _not_trusted(self, node: Node) -> None:
        self._outbox.inode(node, content=True)
        for name in tuple(node.names):
            self._outbox.entry(node, name, expire=True)

    def _within(self, node: Node) -> Iterator[Node]:
        """The folder, and all that the guest knows in it."""
        seen = {node}
        rest = [node]
        while rest:
            inner = rest.pop()
            yield inner
            new = [child for child in tuple(inner.names.values()) if child not in seen]
            seen.update(new)
            rest += new

    def _beneath(self, node: Node, since: int) -> None:
        """It has moved: paths in it were looked at where it was, or where it was not known to be yet."""
        self._compare_with([folder for folder in self._within(node) if folder.is_folder], since)

    def found_elsewhere(self, node: Node, since: int) -> None:
        """The guest has found a folder where it was not known to be: what happened in it, nobody was told."""
        with self._lock:
            for inner in self._within(node):
                self._not_trusted(inner)
            self._beneath(node, since)

    # -- everything ---------------------------------------------------------------------------

    def look_again(self, since: int, *, heard: bool = True) -> None:
        """Compare all that the guest knows with what is there.

        `since` tells new names from old ones: nanoseconds of the host's clock. If the guest has not `heard`
        anything since then, folders that look as it was told are not read.
        """
        nodes = [node for node in self._tree.nodes.all() if node.is_folder and self._tree.is_shared(node)]
        with self._lock:
            self._compare_with([node for node in nodes if node.root is not None], since, heard=heard)

    def _compare_with(self, folders: list[Node], since: int, *, heard: bool = True) -> None:
        changed = {node: self._new_names(node, heard=heard) for node in folders}
        # Only now, for what is missing in one folder may have been found in another.
        for node, new in changed.items():
            for name, child in tuple(node.names.items()):
                self._compare(node, name, child, since)
            if new is None:
                continue
            self._outbox.inode(node, content=True)
            for name, at in new.items():
                self._outbox.entry(node, name, expire=True)  # the guest may think that it is not there
                if at.st_ctime_ns > since and not self._was_told((node, name), at):
                    self._outbox.made(node, name, at)
                    self._news.written(node, name, at, _WRITTEN if at.st_size else Kind.CLOSED)

    def _new_names(self, node: Node, *, heard: bool) -> dict[bytes, Status] | None:
        """What is in a folder that the guest does not know there; None where nothing is new."""
        try:
            folder = self._tree.folder(node)
            self._tree.watches.cover(node, folder)
            if not heard and node.told == stamp(beneath.fstat(folder.number)):
                return None
            here = beneath.names_in(folder)
        except (OSError, Refused):
            self._outbox.inode(node, content=False)
            return None
        new = {}
        for name in here:
            at = self._news.status(node, name) if name not in node.names else None
            if at is not None and not self._tree.hides(node, name):
                new[name] = at
                self._tree.nodes.found(identity(at), (node, name))
        return new

    def _compare(self, node: Node, name: bytes, child: Node, since: int) -> None:
        """What the guest knows by this name with what is there."""
        at = self._news.status(node, name)
        if at is None:
            self._gone(_Seen((node, name), Kind(0), child, None))
        elif identity(at) != child.identity:
            self._news.made(node, name, at, replaces=True)
        elif child.told is None:
            if at.st_ctime_ns > since:
                self._news.content(node, name, Kind.MODIFIED)
        elif child.told != stamp(at) and child.own != stamp(at):
            content = child.told[:2] != stamp(at)[:2]
            self._news.content(node, name, Kind.MODIFIED if content else Kind.ATTRIBUTES)
