"""What the guest will ask for next, told along with an answer: so a cold folder costs one round trip, and
not one for each of its files.

What was read may be out of date when it is sent. So it is sent only if nothing has changed in the folder
since before it was read; whatever changes later is told later, over the same stream.
"""

from __future__ import annotations

import bisect
import os
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

assert sys.platform != "win32"  # as proa.system.beneath

from proa.shares import protocol
from proa.shares.handles import Body, Handles
from proa.shares.nodes import Node
from proa.shares.notices import Outbox
from proa.shares.protocol import Attributes, Op, Refused, Request, names
from proa.shares.tree import Tree
from proa.system import beneath
from proa.system.beneath import Descriptor

MOST = 256  # names told at once; the rest of a larger folder when one behind them is asked for
SMALL = 64 << 10  # bytes of a file that is sent as it is opened
LONGEST = 0.02  # seconds that an answer may be held up by it: a disk may be slow
_EVERYTHING = b"\xff" * (protocol.MAX_NAME + 1)  # behind every name
# Requests after which the kernel asks for the folder's attributes anew.
# Flags of an open that is not to read all of it: fcntl.h of Linux, x86 and ARM alike but for O_DIRECT.
_NOT_READ = 0o3 | 0o1000 | 0o40000 | 0o200000
_LISTS = frozenset((Op.READDIR, Op.READDIRPLUS))
_CHANGES = frozenset((Op.CREATE, Op.MKNOD, Op.MKDIR, Op.SYMLINK, Op.LINK, Op.UNLINK, Op.RMDIR))


@dataclass(frozen=True, slots=True)
class Ahead:
    """What was read of a folder, or of a file, as it was at `version`."""

    unique: int
    node: Node
    version: object
    attributes: bytes = b""  # or a file's content
    end: int = 0  # or a file's handle
    entries: tuple[tuple[Node, bytes, bytes], ...] = ()  # a node, its name and the answer to a look-up
    what: int = 0  # protocol.NEW, protocol.CONTENT


class Anticipation:
    """Safe for several threads."""

    def __init__(
        self,
        tree: Tree,
        outbox: Outbox,
        entry: Callable[[Node, Attributes, Node, bytes], bytes],
        valid: Callable[[Node, Attributes], int],
        handles: Handles,
    ) -> None:
        self._tree = tree
        self._handles = handles
        self._outbox = outbox
        self._entry = entry
        self._valid = valid

    def after(self, request: Request, body: Body) -> list[Ahead]:
        """What to tell with `body`, the answer to a request that has just been carried out well."""
        found = [self._of_folder(request)]
        if request.op == Op.MKDIR:
            found.append(self._new(request))
        elif request.op == Op.OPEN:
            found += self._opened(request, body)
        return [ahead for ahead in found if ahead is not None]

    def _of_folder(self, request: Request) -> Ahead | None:
        """Of the folder that it was about."""
        looks_up, lists = request.op == Op.LOOKUP, request.op in _LISTS
        if not looks_up and not lists and request.op not in _CHANGES:
            return None
        folder = self._tree.nodes.get(request.node)
        if folder is None or folder.root is None or not folder.watch or folder.renaming:
            return None
        version = folder.version
        try:
            if looks_up:
                entries = self._files(folder, names(request.body, 0, 1)[0])
                return Ahead(request.unique, folder, version, entries=entries) if entries else None
            end, folder.end = (folder.end, 0) if lists else (0, 0)
            if lists and not end:
                return None
            attributes = self._tree.attributes_of(folder)
        except (OSError, Refused):
            return None  # whoever asks for it will be told
        valid = self._valid(folder, attributes)
        told = protocol.attr_out(attributes, valid) if valid else b""
        return Ahead(request.unique, folder, version, told, end) if told else None

    def _new(self, request: Request) -> Ahead | None:
        """Of the folder that was just made: whoever makes files in it asks for each whether it is there."""
        above = self._tree.nodes.get(request.node)
        node = above.names.get(names(request.body, 8, 1)[0]) if above is not None else None
        if node is None or self._tree.hides_any(node):
            return None
        version = node.version
        try:
            at = self._tree.watched_folder(node)
            if not node.watch or beneath.names_in(at):
                return None
        except (OSError, Refused):
            return None
        return Ahead(request.unique, node, version, what=protocol.NEW)

    def _opened(self, request: Request, body: Body) -> list[Ahead]:
        """Of a file that was just opened for reading: that it may stay open here, for the next who reads it.

        Once also what is in a small one, which the guest's kernel keeps, and the attributes: it asks for them
        again as what it has read may have changed the time of access.
        """
        [flags] = protocol.fields("<I4x", request.body)
        node = self._tree.nodes.get(request.node)
        if node is None or flags & _NOT_READ or node.changing:
            return []
        version = node.version = node.version or object()
        [number] = protocol.fields("<Q", memoryview(body))
        content, told = b"", []
        try:
            file = self._handles.file(number).file.number
            if not self._tree.watches.trusted(node, os.fstat(file).st_nlink):
                return []
            if node.has_content is not version:
                content = os.pread(file, SMALL + 1, 0)
                attributes = self._tree.attributes_of(node)
                out = protocol.attr_out(attributes, self._valid(node, attributes))
                told = [Ahead(request.unique, node, version, out)]
                node.has_content = version
        except (OSError, Refused):
            return []
        content = content if len(content) <= SMALL else b""
        return [*told, Ahead(request.unique, node, version, content, number, what=protocol.CONTENT)]

    def body(self, ahead: Ahead) -> bytes:
        """To be sent at once, with nothing else sent meanwhile; empty where it is out of date."""
        node = ahead.node
        same = node.version is ahead.version and not node.renaming and not node.changing
        entries = []
        for file, name, entry in ahead.entries:
            # One that the guest has come to know meanwhile, it may have changed.
            if same and file.lookups == 1:
                entries.append((name, entry))
            else:
                self._tree.nodes.forget(file.number, 1)
        if not same or not (entries or ahead.attributes or ahead.what):
            return b""
        return protocol.anticipated(
            ahead.unique, node.number, ahead.attributes, ahead.end, entries, what=ahead.what
        )

    def _files(self, folder: Node, name: bytes) -> tuple[tuple[Node, bytes, bytes], ...]:
        """The files around one that was asked for. No folders: to watch each costs more than it saves."""
        node = folder.names.get(name)
        if name <= folder.ahead or node is None or node.identity[2] == stat.S_IFDIR >> 12:
            return ()
        found = []
        end = time.monotonic() + LONGEST
        at = self._tree.folder(folder)
        here = sorted(beneath.names_in(at))
        most = _EVERYTHING
        if len(here) > MOST:
            start = bisect.bisect_right(here, name)
            here = here[start : start + MOST]
            most = max(folder.ahead, here[-1]) if here else folder.ahead
        for other in here:
            if time.monotonic() > end:
                most = max(folder.ahead, other)
                break
            if other not in folder.names and not self._outbox.expects(folder, other):
                entry = self._file(folder, at, other)
                if entry is not None:
                    found.append(entry)
        folder.ahead = most
        return tuple(found)

    def _file(self, folder: Node, at: Descriptor, name: bytes) -> tuple[Node, bytes, bytes] | None:
        """One of which each change is told; the guest knows it from here on."""
        try:
            found = os.stat(name, dir_fd=at.number, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode) or found.st_nlink != 1 or self._tree.hides(folder, name):
                return None
            node, attributes = self._tree.take_in(folder, name, at, found)
        except (OSError, Refused):
            return None
        return node, name, self._entry(node, attributes, folder, name)
