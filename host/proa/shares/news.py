"""What follows for the guest when the host has changed something: which names and files it is not to trust
any more, and what is to be repeated there so that those who watch are told.
"""

from __future__ import annotations

import stat

from proa.shares.nodes import Node, Place
from proa.shares.notices import Outbox
from proa.shares.own import OwnChanges
from proa.shares.protocol import Refused
from proa.shares.tree import Tree, identity
from proa.shares.watches import stamp
from proa.system import beneath
from proa.system.beneath import Status
from proa.system.watching import Kind


class News:
    """Of the host's changes: what is the guest's own is kept back here where it can be known."""

    def __init__(self, tree: Tree, outbox: Outbox, own: OwnChanges) -> None:
        self._tree = tree
        self._outbox = outbox
        self._own = own

    def status(self, folder: Node, name: bytes) -> Status | None:
        """What is called so on the host; None for nothing that can be reached."""
        try:
            return self.look(folder, name)
        except (OSError, Refused):
            return None

    def look(self, folder: Node, name: bytes) -> Status:
        """Raises OSError, Refused."""
        return beneath.status(self._tree.folder(folder), name)

    def content(self, folder: Node, name: bytes, kind: Kind) -> None:
        if self._tree.hides(folder, name) or self._own.defers(folder, name, kind):
            return
        node = folder.names.get(name)
        # Most is the guest's own: all that it writes is told here too.
        if node is not None and node.own and self._own.is_own(node, kind, lambda: self.look(folder, name)):
            return
        found = self.status(folder, name)
        if found is None:
            return  # that it has gone is told as well
        node = self._tree.nodes.known(identity(found))
        if node is not None and self._own.is_own(node, kind, lambda: self.look(folder, name)):
            return
        if folder.names.get(name) is not node or node is None:
            self._outbox.entry(folder, name, expire=True)  # it may be under way to the guest
        content = bool(kind & (Kind.MODIFIED | Kind.CLOSED))
        if node is not None:
            self._own.told(node, found, content=content)
            self._outbox.inode(node, content=content)
        if kind & Kind.ATTRIBUTES:
            self._outbox.changed(folder, name, b"a")
        self.written(folder, name, found, kind)

    def written(self, folder: Node, name: bytes, found: Status, kind: Kind) -> None:
        """Those who watch are to be told of its content. Nothing, of what is no file."""
        if stat.S_ISREG(found.st_mode):
            for step in (b"m",) * bool(kind & Kind.MODIFIED) + (b"w",) * bool(kind & Kind.CLOSED):
                self._outbox.changed(folder, name, step)

    def removed(self, place: Place, kind: Kind) -> None:
        if self._is_another(place):
            return
        node = self._forget_place(place)
        if node is not None and kind & Kind.DELETED and not node.places:
            self._tree.nodes.ended(node)  # the next file with its number is another one
            self._tree.owners.forget(*node.identity[:2])
        elif kind & Kind.FOLDER and kind & Kind.MOVED_FROM:
            self._tree.nodes.let_go_all()  # it may lie outside of all shares now, with all that is in it
        self._outbox.removed(*place, node or self._stand_in(kind))
        self._outbox.entry(*place)  # only now: the guest is not to take in meanwhile that it has gone
        if node is not None and node.is_folder:
            self._dead(node)

    def _dead(self, node: Node) -> None:
        """The guest's kernel lets nothing into a folder that was removed there: it comes back as another."""
        self._tree.nodes.ended(node)
        for place in tuple(node.places):
            self._outbox.entry(*place)

    def _is_another(self, place: Place) -> bool:
        """Whether the guest has given the name to another file since what is being told of it."""
        if self._own.outruns(*place):
            return True
        node = place[0].names.get(place[1])
        found = self.status(*place) if node is not None else None
        if node is None or found is None or node.identity != identity(found):
            return False
        # A new file may have got the number of the one that was removed, but not its times.
        return stamp(found) in (node.own, node.told)

    def _has_stayed(self, old: Place, new: Place) -> bool:
        """Whether another file is called so by now, which the guest knows: that would move with a repeat."""
        node, found = old[0].names.get(old[1]), self.status(*old)
        if node is None or found is None or node.identity != identity(found):
            return False
        moved = self.status(*new)
        return moved is None or node.identity != identity(moved)

    def _forget_place(self, place: Place) -> Node | None:
        """Nobody is to take the name for the file that it stood for; that file, if the guest knew it."""
        node = place[0].names.pop(place[1], None)
        if node is not None:
            self._tree.nodes.left(node, place)
            self._outbox.inode(node, content=False)
        return node

    def _stand_in(self, kind: Kind) -> Node:
        """For a file that the guest does not know, but those who watch its folder are to be told of."""
        return self._tree.nodes.stand_in((stat.S_IFDIR if kind & Kind.FOLDER else stat.S_IFREG) >> 12)

    def unseen(self, folder: Node, name: bytes) -> None:
        """The host has changed the name, and how is not known, or was taken for the guest's own change."""
        self._outbox.inode(folder, content=True)
        found, known = self.status(folder, name), folder.names.get(name)
        if found is not None:
            self.made(folder, name, found, replaces=True)
        elif known is not None:
            self.removed((folder, name), Kind.DELETED | (Kind.FOLDER if known.is_folder else Kind(0)))
        self._outbox.entry(folder, name)

    def made(self, folder: Node, name: bytes, found: Status, *, replaces: bool = False) -> None:
        known = folder.names.get(name)
        if known is not None and known.identity != identity(found):
            self._forget_place((folder, name))
            if replaces:
                self._outbox.removed(folder, name, known)
                if known.is_folder:
                    self._dead(known)
        self._outbox.made(folder, name, found)
        # Also where it was told without asking: its kernel may keep from before that nothing is called so.
        self._outbox.entry(folder, name, expire=known is None or known.identity == identity(found))

    def moved(self, old: Place, new: Place, kind: Kind) -> None:
        if self._is_another(old):
            self.unseen(*new)
            return
        if self._has_stayed(old, new):
            self._outbox.entry(*old, expire=True)
            self.unseen(*new)
            return
        if self._own.outruns(*new):
            self.removed(old, kind)
            return
        found = self.status(*new)
        node = old[0].names.get(old[1])
        replaced = new[0].names.get(new[1])
        if replaced is not None and replaced is not node:
            self._forget_place(new)
            if replaced.is_folder:
                self._dead(replaced)
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
