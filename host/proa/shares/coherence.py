"""What the host changes, and what follows for the guest: which names and files it is not to trust any more,
and what is to be repeated there so that those who watch are told.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
import threading
import time

assert sys.platform != "win32"  # as proa.system.beneath

from proa.shares.nodes import Node, Place
from proa.shares.notices import Outbox, or_end
from proa.shares.own import OwnChanges
from proa.shares.protocol import Refused
from proa.shares.tree import Tree, identity
from proa.shares.watches import stamp
from proa.system import beneath
from proa.system.watching import CONTENT, NAMES, Change, Kind

log = logging.getLogger("proa.shares")

PATIENCE = 0.005  # seconds that the second half of a move may come later than the first
IDLE = 10.0  # seconds without a change after which it is known that nothing was missed


class Coherence:
    """Belongs to one thread of its own, but for what the guest's own changes are announced with."""

    def __init__(self, tree: Tree, outbox: Outbox) -> None:
        self._tree = tree
        self._watches = tree.watches
        self._outbox = outbox
        self.own = OwnChanges(tree.watches, self._content, self._missed, self._look_at, outbox.overtaken)
        self._gone_again: set[Place] = set()  # made and removed before it could be looked at
        self._following = False
        self._since = 0  # when all was last known to be told: nanoseconds of the host's clock
        self._thread: threading.Thread | None = None

    # -- what the host does -------------------------------------------------------------------

    def start(self) -> None:
        """Follow changes from here on; first look at what changed since an earlier server ended."""
        if self._thread is not None or self._watches.watcher is None:
            return
        if self._since:
            self.look_again(self._since)
        self._since = time.time_ns()
        self._thread = threading.Thread(target=self._run, name="changes", daemon=True)
        self._thread.start()

    def go_on_from(self, since: int) -> None:
        """An earlier server was up to date then: nanoseconds of the host's clock."""
        self._since = since

    def go_on_after_a_kill(self, since: int) -> None:
        """An earlier server was at work until then, and what the guest was told of files is not known."""
        for node in self._tree.nodes.all():
            self._outbox.inode(node, content=True)
        self._since = since

    def _run(self) -> None:
        watcher = self._watches.watcher
        assert watcher is not None
        with or_end("changes of this computer's folders"):
            while True:
                began = time.time_ns()
                self._following = False
                changes = watcher.read(IDLE, self._begin)
                if not changes:
                    self._tree.nodes.let_go_all(but_nameless=True)  # a disk can be taken out so
                if changes and changes[-1].kind & Kind.MOVED_FROM:
                    changes += watcher.read(PATIENCE)
                self.follow(changes)
                self._since = began

    def _begin(self) -> None:
        self._following = True

    def quiet(self) -> bool:
        """Whether all that has happened was decided on."""
        watcher = self._watches.watcher
        # In this order: what is not unread any more is being followed.
        return watcher is None or not (watcher.has_unread() or self._following)

    def owners_changed(self) -> None:
        """Every file may look otherwise to the guest from here on."""
        for node in self._tree.nodes.all():
            node.owner = None
            self._outbox.inode(node, content=False)

    def shares_changed(self) -> None:
        """What is not shared any more is not to be seen any more, wherever the guest keeps it."""
        for node in self._tree.nodes.all():
            hidden = [name for name in tuple(node.names) if self._tree.hides(node, name)]
            for name in hidden:
                self._outbox.entry(node, name)
            gone = not self._tree.is_shared(node)
            if hidden or gone or node.root is None:
                self._outbox.inode(node, content=True)
            if node.root is None and not self._tree.is_above(node.above):
                self._not_there(node.above)
            elif node.root is not None and node.is_top and gone:
                self._not_there(node.root.path)

    def _not_there(self, path: bytes) -> None:
        """In a folder above all shares this name leads elsewhere by now, or nowhere."""
        above, name = os.path.split(path)
        parent = self._tree.nodes.get_above(above)
        if parent is not None:
            self._outbox.entry(parent, name)

    def follow(self, changes: list[Change]) -> None:
        """Decide on changes in the order in which they happened."""
        sources = {change.cookie: change for change in changes if change.kind & Kind.MOVED_FROM}
        paired = {change.cookie for change in changes if change.kind & Kind.MOVED_TO} & sources.keys()
        for change in changes:
            if change.kind & Kind.OVERFLOW:
                self._overflow()
                continue
            node = self._watches.node(change.watch)
            if node is None or change.kind & Kind.MOUNTED:
                continue
            if not change.name:
                self._itself(node, change.kind)
            elif change.kind & CONTENT:
                self._content(node, change.name, change.kind)
            elif change.kind & NAMES:
                self._name(node, change, sources.get(change.cookie), paired)
        self._mounted({change.name for change in changes if change.kind & Kind.MOUNTED})

    def _overflow(self) -> None:
        log.warning("more changes than the system could tell of: looking at everything that the guest knows")
        self._watches.no_echoes()
        self.look_again(self._since)

    def _mounted(self, paths: set[bytes]) -> None:
        """Other folders than before are seen there; who watches one is told nothing of that."""
        if any(map(self._tree.reaches, paths)):
            log.info("another file system is there: %s", ", ".join(map(os.fsdecode, sorted(paths))))
            self._tree.nodes.let_go_all()
            for path in paths:
                self._tree.reach.mounted(path)
            self.look_again(self._since)  # once: it compares all that the guest knows

    def _itself(self, node: Node, kind: Kind) -> None:
        """What is watched has changed, seen from itself; that it moves or goes, its folder tells too."""
        if kind & Kind.ENDED:
            self._watches.release(node)
            self._tree.nodes.let_go(node)
            if self._tree.nodes.known(node.identity) is node and not node.changing:
                self._outbox.inode(node, content=True)
        elif not kind & CONTENT:
            return
        elif not node.is_folder:
            for parent, name in tuple(node.places):
                self._content(parent, name, kind)
        elif not self.own.is_own(node, kind, lambda: self._tree.locate(node).found):
            self._outbox.inode(node, content=False)

    def _missed(self, node: Node, kind: Kind) -> None:
        """Changes of it that came while the guest was changing it itself."""
        if node.is_folder:
            self._itself(node, kind)
        for folder, name in tuple(node.places):
            self._content(folder, name, kind)

    def _look_at(self, folder: Node, name: bytes) -> None:
        """The host has changed the name, and how was taken for the guest's own change."""
        self._outbox.inode(folder, content=True)
        found, known = self._status(folder, name), folder.names.get(name)
        if found is not None:
            self._made(folder, name, replaces=True)
        elif known is not None:
            self._removed((folder, name), Kind.DELETED | (Kind.FOLDER if known.is_folder else Kind(0)))
        self._outbox.entry(folder, name)

    def _look(self, folder: Node, name: bytes) -> os.stat_result:
        return beneath.status(self._tree.folder(folder), name)

    def _status(self, folder: Node, name: bytes) -> os.stat_result | None:
        try:
            return self._look(folder, name)
        except (OSError, Refused):
            return None

    # -- content ------------------------------------------------------------------------------

    def _content(self, folder: Node, name: bytes, kind: Kind) -> None:
        if self._tree.hides(folder, name) or self.own.defers(folder, name, kind):
            return
        found = self._status(folder, name)
        if found is None:
            return  # that it has gone is told as well
        node = self._tree.nodes.known(identity(found))
        if node is not None and self.own.is_own(node, kind, lambda: self._look(folder, name)):
            return
        if folder.names.get(name) is not node or node is None:
            self._outbox.entry(folder, name, expire=True)  # it may be under way to the guest
        content = bool(kind & (Kind.MODIFIED | Kind.CLOSED))
        if node is not None:
            self.own.told(node, found, content=content)
            self._outbox.inode(node, content=content)
        if kind & Kind.ATTRIBUTES:
            self._outbox.changed(folder, name, b"a")
        if stat.S_ISREG(found.st_mode):
            for step in (b"m",) * bool(kind & Kind.MODIFIED) + (b"w",) * bool(kind & Kind.CLOSED):
                self._outbox.changed(folder, name, step)

    # -- names --------------------------------------------------------------------------------

    def _name(self, folder: Node, change: Change, source: Change | None, paired: set[int]) -> None:
        kind = change.kind & NAMES
        if self._watches.is_echo(folder, change.name, kind) or self._tree.hides(folder, change.name):
            return
        self._outbox.inode(folder, content=True)  # the listing that the kernel keeps
        if kind == Kind.MOVED_FROM and change.cookie in paired:
            return  # told with its other half
        if kind in (Kind.MOVED_FROM, Kind.DELETED):
            self._removed((folder, change.name), change.kind)
            return
        old = self._watches.node(source.watch) if source is not None else None
        if kind == Kind.MOVED_TO and source is not None and old is not None:
            self._moved((old, source.name), (folder, change.name), change.kind)
        else:
            self._made(folder, change.name, replaces=kind == Kind.MOVED_TO)

    def _forget_place(self, place: Place) -> Node | None:
        """Nobody is to take the name for the file that it stood for; that file, if the guest knew it."""
        node = place[0].names.pop(place[1], None)
        if node is not None:
            self._tree.nodes.left(node, place)
            self._outbox.inode(node, content=False)
        return node

    def _removed(self, place: Place, kind: Kind) -> None:
        if place in self._gone_again:
            self._gone_again.discard(place)
            return
        if self._is_another(place):
            return
        node = self._forget_place(place)
        if node is not None and kind & Kind.DELETED and not node.places:
            self._tree.nodes.ended(node)  # the next file with its number is another one
        elif kind & Kind.FOLDER and kind & Kind.MOVED_FROM:
            self._tree.nodes.let_go_all()  # it may lie outside of all shares now, with all that is in it
        self._outbox.removed(*place, node or self._stand_in(kind))
        self._outbox.entry(*place)  # only now: the guest is not to take in meanwhile that it has gone

    def _is_another(self, place: Place) -> bool:
        """Whether the guest has given the name to another file since what is being told of it."""
        if self.own.outruns(*place):
            return True
        node = place[0].names.get(place[1])
        found = self._status(*place) if node is not None else None
        if node is None or found is None or node.identity != identity(found):
            return False
        # A new file may have got the number of the one that was removed, but not its times.
        return stamp(found) in (node.own, node.told)

    def _stand_in(self, kind: Kind) -> Node:
        """For a file that the guest does not know, but those who watch its folder are to be told of."""
        return self._tree.nodes.stand_in((stat.S_IFDIR if kind & Kind.FOLDER else stat.S_IFREG) >> 12)

    def _made(self, folder: Node, name: bytes, *, replaces: bool = False) -> None:
        found = self._status(folder, name)
        if found is None:
            self._gone_again.add((folder, name))
            return
        known = folder.names.get(name)
        if known is not None and known.identity != identity(found):
            self._forget_place((folder, name))
            if replaces:
                self._outbox.removed(folder, name, known)
        self._outbox.made(folder, name, found)
        if known is None or known.identity != identity(found):
            self._outbox.entry(folder, name, expire=known is None)

    def _moved(self, old: Place, new: Place, kind: Kind) -> None:
        self._gone_again.discard(old)
        if self._is_another(old):
            self._look_at(*new)
            return
        if self.own.outruns(*new):
            self._removed(old, kind)
            return
        found = self._status(*new)
        node = old[0].names.get(old[1])
        replaced = new[0].names.get(new[1])
        if replaced is not None and replaced is not node:
            self._forget_place(new)
        if node is not None:
            if found is not None and node.identity == identity(found):
                self._tree.nodes.moved(node, old, new)
            else:
                self._forget_place(old)
            self._outbox.inode(node, content=False)

        def trust_neither() -> None:
            self._outbox.entry(*old)
            self._outbox.entry(*new)

        moved = node or self._stand_in(kind)
        # A folder not before the guest has moved it too: what is mounted in there would be let go.
        folder = found is not None and stat.S_ISDIR(found.st_mode)
        failed = trust_neither if folder else None
        self._outbox.moved(old, new, moved, replaced if replaced is not moved else None, failed)
        if not folder:
            trust_neither()

    # -- everything ---------------------------------------------------------------------------

    def look_again(self, since: int) -> None:
        """Compare all that the guest knows with what is there; `since` tells new names from old ones."""
        self._gone_again.clear()
        folders = [
            node
            for node in self._tree.nodes.all()
            if node.root is not None and node.is_folder and self._tree.is_shared(node)
        ]
        changed = {node: self._new_names(node) for node in folders}
        # Only now, for what is missing in one folder may have been found in another.
        for node, new in changed.items():
            for name, child in tuple(node.names.items()):
                self._compare(node, name, child, since)
            if new is None:
                continue
            self._outbox.inode(node, content=True)
            for name, at in new.items():
                self._outbox.entry(node, name, expire=True)  # the guest may think that it is not there
                if at.st_ctime_ns > since:
                    self._outbox.made(node, name, at)

    def _new_names(self, node: Node) -> dict[bytes, os.stat_result] | None:
        """What is in a folder that the guest does not know there; None where nothing is new."""
        try:
            folder = self._tree.folder(node)
            self._watches.cover(node, folder)
            if node.told == stamp(os.fstat(folder.number)):
                return None
            here = beneath.names_in(folder)
        except (OSError, Refused):
            self._outbox.inode(node, content=False)
            return None
        new = {}
        for name in here:
            at = self._status(node, name) if name not in node.names else None
            if at is not None and not self._tree.hides(node, name):
                new[name] = at
                self._tree.nodes.found(identity(at), (node, name))
        return new

    def _compare(self, node: Node, name: bytes, child: Node, since: int) -> None:
        """What the guest knows by this name with what is there."""
        at = self._status(node, name)
        if at is None:
            kind = Kind.FOLDER if child.is_folder else Kind(0)
            self._removed((node, name), Kind.DELETED | kind)
        elif identity(at) != child.identity:
            self._made(node, name, replaces=True)
        elif child.told is None:
            if at.st_ctime_ns > since:
                self._content(node, name, Kind.MODIFIED)
        elif child.told != stamp(at) and child.own != stamp(at):
            content = child.told[:2] != stamp(at)[:2]
            self._content(node, name, Kind.MODIFIED if content else Kind.ATTRIBUTES)
