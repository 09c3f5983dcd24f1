"""Answers to the guest's process that repeats the host's changes: nothing of it is done a second time."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable

from proa.shares import protocol
from proa.shares.handles import Body
from proa.shares.nodes import Node
from proa.shares.notices import Outbox, Repeat
from proa.shares.protocol import Attributes, Op, Refused, Request, names
from proa.shares.tree import Tree
from proa.system import beneath
from proa.system.beneath import Status

# What changes nothing, and is answered as to anybody.
_HARMLESS = frozenset(
    (
        Op.GETATTR, Op.READLINK, Op.OPENDIR, Op.READDIR, Op.READDIRPLUS, Op.RELEASE, Op.RELEASEDIR, Op.FLUSH,
        Op.STATFS, Op.GETXATTR, Op.LISTXATTR, Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT,
    )
)  # fmt: skip


class Repeats:
    """`pid` is the guest's number of that process, 0 while there is none."""

    def __init__(
        self, tree: Tree, outbox: Outbox, entry: Callable[[Node, Attributes, Node, bytes], bytes]
    ) -> None:
        self.pid = 0
        self._tree = tree
        self._outbox = outbox
        self._entry = entry
        self._done: tuple[Repeat, int] | None = None  # which of its steps that change names are behind it

    def answer(self, request: Request, others: Callable[[Request], Body | None]) -> Body | None:
        """`others` is the answer that anybody else would get. Raises Refused, OSError, FrameError."""
        if request.op in _HARMLESS:
            return others(request)
        if request.op == Op.OPEN:
            return protocol.OPEN_OUT.pack(0, protocol.FOPEN_KEEP_CACHE, 0)
        if request.op == Op.SETATTR:
            return protocol.attr_out(self._tree.attributes_of(self._tree.node(request.node)), 0)
        repeat = self._outbox.current
        if repeat is not None and request.op == Op.LOOKUP:
            return self._look_up(repeat, request)
        if repeat is not None and request.op in (Op.MKNOD, Op.MKDIR, Op.SYMLINK):
            return self._made(repeat, request)
        if repeat is not None and request.op in (Op.UNLINK, Op.RMDIR, Op.RENAME, Op.RENAME2):
            self._behind(repeat)
            return b""
        raise Refused("EPERM")

    def _behind(self, repeat: Repeat) -> None:
        self._done = repeat, self._steps_done(repeat) + 1

    def _steps_done(self, repeat: Repeat) -> int:
        return self._done[1] if self._done is not None and self._done[0] is repeat else 0

    def _look_up(self, repeat: Repeat, request: Request) -> Body:
        """As the name was before the step that is being repeated."""
        [name] = names(request.body, 0, 1)
        place = request.node, name
        step = repeat.steps[self._steps_done(repeat) :][:1]
        if repeat.to is not None:
            if place == (repeat.folder.number, repeat.name):
                return self._moved(repeat, repeat.to)
            if place == (repeat.to[0].number, repeat.to[1]):
                return self._old(repeat.before)
        elif place == (repeat.folder.number, repeat.name):
            if step in (b"u", b"r"):
                return self._old(repeat.before)
            if step and step in b"fdlps":
                return protocol.no_entry_out(0)
        parent = self._tree.node(request.node)
        node, attributes = self._tree.look_up(parent, name)
        return self._entry(node, attributes, parent, name)

    def _moved(self, repeat: Repeat, to: tuple[Node, bytes]) -> Body:
        """What was moved, which is found under its new name by now, unless that has changed again."""
        try:
            node, attributes = self._tree.look_up(*to)
        except (OSError, Refused):
            return self._old(repeat.source)
        if repeat.source is not None and node.identity[2] != repeat.source.identity[2]:
            return self._old(repeat.source)
        return protocol.entry_out(node.number, attributes, 0, 0)

    def _old(self, node: Node | None) -> Body:
        """A file that may have gone, as the guest knew it: whoever has it open must not see it shrink."""
        if node is None:
            return protocol.no_entry_out(0)
        self._tree.nodes.again(node)
        kind = node.identity[2] << 12
        mode = kind | (0o755 if kind == stat.S_IFDIR else 0o644)
        inode = self._tree.inode_of(node)
        size, changed, changed_at_all = node.told or (0, 0, 0)
        attributes = Attributes(inode, size, 0, 0, changed, changed_at_all, mode, 1, 0, 0, 0, 4096)
        return protocol.entry_out(node.number, attributes, 0, 0)

    def _made(self, repeat: Repeat, request: Request) -> Body:
        if repeat.found is None or request.node != repeat.folder.number:
            raise Refused("EPERM")
        self._behind(repeat)
        folder = self._tree.folder(repeat.folder)
        wanted = stat.S_IFMT(repeat.found.st_mode)
        found: Status | None = None
        with contextlib.suppress(FileNotFoundError):
            found = beneath.status(folder, repeat.name)
        if found is None or stat.S_IFMT(found.st_mode) != wanted:
            # It has been moved, removed or replaced since, which will be told too. Nobody is to take the name
            # for what it was until then: who lists the folder would be told so, and the guest keeps that.
            return self._old(self._tree.nodes.stand_in(wanted >> 12))
        node, attributes = self._tree.take_in(repeat.folder, repeat.name, folder, found)
        return self._entry(node, attributes, repeat.folder, repeat.name)
