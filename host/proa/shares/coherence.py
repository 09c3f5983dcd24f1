"""The host's changes, as the system tells of them: each is decided on in the order in which it happened."""

from __future__ import annotations

import logging
import posixpath
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from proa.shares.comparison import Comparison
from proa.shares.news import News
from proa.shares.nodes import Node, Place
from proa.shares.notices import Outbox, or_end
from proa.shares.own import OwnChanges
from proa.shares.tree import Tree
from proa.system.beneath import FOLDERS_HELD, host_path
from proa.system.watching import CONTENT, NAMES, Change, Kind

log = logging.getLogger("proa.shares")

PATIENCE = 0.005  # seconds that the second half of a move may come later than the first
# Seconds after changes in which more gather. Most are the guest's own, three for each file that it makes: to
# follow each at once would have whoever answers the guest wait for this thread as often.
GATHERED = 0.003
OWN_GATHERED = 0.02  # where all were
_WRITTEN = (Kind.MODIFIED, Kind.CLOSED)


class Coherence:
    """Belongs to one thread of its own, but for what the guest's own changes are announced with."""

    def __init__(self, tree: Tree, outbox: Outbox) -> None:
        self._tree = tree
        self._watches = tree.watches
        self._outbox = outbox
        missed = self._content, self._missed, self.name_missed
        self.own = OwnChanges(tree.watches, *missed, outbox.overtaken, self._doubted)
        self._news = News(tree, outbox, self.own)
        self._comparison = Comparison(tree, outbox, self.own, self._news)
        if self._watches.by_path:  # else they are watched wherever they are
            tree.nodes.elsewhere = lambda node: self._comparison.found_elsewhere(node, self._since)
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
            self._way_changed(b"/")
            self._comparison.look_again(self._since, heard=False)
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
        pause, let_go = threading.Event(), time.monotonic()
        with or_end("changes of this computer's folders"):
            while True:
                began = time.time_ns()
                changes = watcher.read(FOLDERS_HELD, self._begin)
                if changes and changes[-1].kind & Kind.MOVED_FROM:
                    changes += watcher.read(PATIENCE)
                self.follow(changes)
                # A disk can be taken out so. Not before it is known which folders have lost their names.
                if time.monotonic() - let_go >= FOLDERS_HELD and not watcher.has_unread():
                    self._tree.nodes.let_go_all(but_nameless=True)
                    let_go = time.monotonic()
                self._since, self._following = began, False
                if changes:
                    pause.wait(OWN_GATHERED if self._outbox.quiet() else GATHERED)

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

    def _not_there(self, path: bytes, *, expire: bool = False) -> None:
        """In a folder above all shares this name leads elsewhere by now, or nowhere; with `expire` it may."""
        above, name = posixpath.split(path)
        parent = self._tree.nodes.get_above(above)
        if parent is not None:
            self._outbox.entry(parent, name, expire=expire)

    def follow(self, changes: list[Change]) -> None:
        """Decide on changes in the order in which they happened."""
        self._comparison.look((change for change in changes if change.kind & Kind.PATH), self._since)
        # Halves of moves that the guest can see: the other may be above all shares, or never shared.
        seen = [change for change in changes if change.kind & (Kind.MOVED_FROM | Kind.MOVED_TO)]
        seen = [change for change in seen if self._is_seen(change)]
        sources = {change.cookie: change for change in seen if change.kind & Kind.MOVED_FROM}
        paired = {change.cookie for change in seen if change.kind & Kind.MOVED_TO} & sources.keys()
        for change in _written_once(changes):
            if change.kind & Kind.OVERFLOW:
                self._overflow()
                continue
            above, node = self._watches.above(change.watch), self._watches.node(change.watch)
            if above is not None:
                self._above(above, change)
            if node is None or change.kind & (Kind.MOUNTED | Kind.STAYED):
                continue
            if not change.name:
                self._itself(node, change.kind)
            elif change.kind & CONTENT:
                self._content(node, change.name, change.kind)
            elif change.kind & NAMES:
                self._name(node, change, sources.get(change.cookie), paired)
        if not self._mounted({change.name for change in changes if change.kind & Kind.MOUNTED}):
            self._stayed({change.name for change in changes if change.kind & Kind.STAYED})

    def _is_seen(self, change: Change) -> bool:
        node = self._watches.node(change.watch)
        return node is not None and not self._tree.hides(node, change.name)

    def _above(self, node: Node, change: Change) -> None:
        """Above all shares, where nothing counts but what leads to them."""
        if change.kind & NAMES and change.name:
            self._way_changed(node.above.rstrip(b"/") + b"/" + change.name)
        elif not change.name and not change.kind & CONTENT:
            self._way_changed(node.above)

    def _way_changed(self, path: bytes) -> None:
        """What is called so may be another folder by now, so the way is watched anew when it is next gone."""
        roots = self._tree.roots_below(path)
        if not roots:
            return
        start = path.rstrip(b"/") + b"/"
        for node in self._watches.all_above():
            if (node.above.rstrip(b"/") + b"/").startswith(start):
                self._watches.release(node)
        for root in roots:
            self._not_there(root, expire=True)

    def _look_again(self) -> None:
        self._gone_again.clear()
        self._way_changed(b"/")
        self._comparison.look_again(self._since)

    def _overflow(self) -> None:
        log.warning("more changes than the system could tell of: looking at everything that the guest knows")
        self._watches.no_echoes()
        self._look_again()

    def _mounted(self, paths: set[bytes]) -> bool:
        """Other folders than before are seen there; who watches one is told nothing of that.

        Whether that concerns a share.
        """
        if not any(map(self._tree.reaches, paths)):
            return False
        log.info("another file system is there: %s", ", ".join(map(host_path, sorted(paths))))
        self._tree.nodes.let_go_all()
        for path in paths:
            self._tree.reach.mounted(path)
        self._look_again()  # once: it compares all that the guest knows
        return True

    def _stayed(self, paths: set[bytes]) -> None:
        """Mounts have changed somewhere: where a share has disks in it, it may have been there."""
        if paths and (any(map(self._tree.is_within, paths)) or self._tree.nodes.on_several_disks()):
            self._tree.nodes.let_go_all(but_nameless=True)
            self._look_again()

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

    def _doubted(self, node: Node) -> None:
        self._outbox.inode(node, content=True)

    def name_missed(self, folder: Node, name: bytes) -> None:
        """A name has changed, which was taken for the guest's own change."""
        if self._watches.by_path:
            self._comparison.look_at({(folder, name): Kind(0)}, self._since)
        else:
            self._news.unseen(folder, name)

    def _content(self, folder: Node, name: bytes, kind: Kind) -> None:
        if self._watches.by_path:
            self._comparison.look_at({(folder, name): kind}, self._since)
        else:
            self._news.content(folder, name, kind)

    def _name(self, folder: Node, change: Change, source: Change | None, paired: set[int]) -> None:
        place, kind = (folder, change.name), change.kind & NAMES
        if self._watches.is_echo(*place, kind) or self._tree.hides(*place):
            return
        self.own.others_were_at_it()
        self._outbox.inode(folder, content=True)  # the listing that the kernel keeps
        if kind == Kind.MOVED_FROM and change.cookie in paired:
            return  # told with its other half
        if kind in (Kind.MOVED_FROM, Kind.DELETED):
            if place in self._gone_again:
                self._gone_again.discard(place)
            else:
                self._news.removed(place, change.kind)
            return
        old = self._watches.node(source.watch) if source is not None else None
        if kind == Kind.MOVED_TO and source is not None and old is not None:
            self._gone_again.discard((old, source.name))
            self._news.moved((old, source.name), place, change.kind)
            return
        found = self._news.status(*place)
        if found is None:
            self._gone_again.add(place)
        else:
            self._news.made(*place, found, replaces=kind == Kind.MOVED_TO)


def _written_once(changes: Iterable[Change]) -> Iterator[Change]:
    """As they are, but for what was written to a file and closed in a row: that is looked at once."""
    before: Change | None = None
    for change in changes:
        if before is not None:
            if change.name == before.name and change.watch == before.watch and change.kind in _WRITTEN:
                before = replace(before, kind=before.kind | change.kind)
                continue
            yield before
            before = None
        if change.name and change.kind in _WRITTEN:
            before = change
        else:
            yield change
    if before is not None:
        yield before
