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
from collections.abc import Callable, Sequence
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
MOST_WALKED, LONGEST_WALKED = 64, 0.003  # the same of a folder that was itself asked for, in a walk
SMALL = 64 << 10  # bytes of a file that is sent as it is opened
LONGEST = 0.02  # seconds that an answer may be held up by it: a disk may be slow
_EVERYTHING = b"\xff" * (protocol.MAX_NAME + 1)  # behind every name
_Entry = tuple[Node, bytes, bytes]  # a node, its name and the answer to a look-up
_NOT_READ = protocol.ACCESS_MODE | protocol.TRUNCATE | protocol.DIRECT  # flags of an open


@dataclass(frozen=True, slots=True)
class Ahead:
    """What was read of a folder, or of a file, as it was at `version`."""

    unique: int
    node: Node
    version: object
    attributes: bytes = b""  # or a file's content
    end: int = 0  # or a file's handle
    entries: tuple[_Entry, ...] = ()
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
        changes = (Op.CREATE, Op.MKNOD, Op.SYMLINK, Op.LINK, Op.UNLINK, Op.RMDIR)
        self._works: dict[int, Callable[[Request, Body], Sequence[Ahead]]] = {
            **dict.fromkeys(changes, self._changed),
            Op.LOOKUP: self._looked_up,
            Op.READDIR: self._listed,
            Op.READDIRPLUS: self._listed,
            Op.MKDIR: self._made_folder,
            Op.OPEN: self._opened,
        }

    def after(self, request: Request, body: Body) -> Sequence[Ahead]:
        """What to tell with `body`, the answer to a request that has just been carried out well."""
        work = self._works.get(request.op)
        try:
            return work(request, body) if work is not None else ()
        except (OSError, Refused):
            return ()  # whoever asks for it will be told

    def notices(self, aheads: Sequence[Ahead]) -> bytes:
        """To be sent at once, with nothing else sent meanwhile: without what is out of date."""
        return b"".join(map(self._notice, aheads))

    def _folder(self, request: Request) -> Node | None:
        """The folder that the request was about, if each change in it is told."""
        folder = self._tree.nodes.get(request.node)
        told = folder is not None and folder.root is not None and folder.watch and not folder.renaming
        return folder if told else None

    def _looked_up(self, request: Request, _: Body) -> Sequence[Ahead]:
        folder = self._folder(request)
        if folder is None:
            return ()
        [name] = names(request.body, 0, 1)
        node = folder.names.get(name)
        if node is None:
            return ()
        if node.is_folder:
            return self._walked_into(request, node) if folder.walked else ()
        version = folder.version
        entries = self._files(folder, name)
        if not entries:
            return ()
        for parent, _ in tuple(folder.places):
            parent.walked = True
        return (Ahead(request.unique, folder, version, entries=entries),)

    def _walked_into(self, request: Request, folder: Node) -> Sequence[Ahead]:
        """Files were asked for in a folder beside this one: so they will be in this one."""
        version = folder.version
        if not folder.watch or folder.renaming or folder.ahead:
            return ()
        at = self._tree.folder(folder)
        here = sorted(beneath.names_in(at))
        if len(here) > MOST_WALKED:
            return ()
        entries, stopped = self._entries(folder, at, here, LONGEST_WALKED)
        folder.ahead = stopped or _EVERYTHING
        return (Ahead(request.unique, folder, version, entries=entries),) if entries else ()

    def _listed(self, request: Request, _: Body) -> Sequence[Ahead]:
        folder = self._folder(request)
        if folder is None or not folder.end:
            return ()
        end, folder.end = folder.end, 0
        return self._attributes(request, folder, end)

    def _changed(self, request: Request, _: Body) -> Sequence[Ahead]:
        folder = self._folder(request)
        return self._attributes(request, folder) if folder is not None else ()

    def _attributes(self, request: Request, node: Node, end: int = 0) -> Sequence[Ahead]:
        """How it looks, which the kernel asks for anew after such a request. Raises OSError, Refused."""
        version = node.version
        attributes = self._tree.attributes_of(node)
        valid = self._valid(node, attributes)
        if not valid:
            return ()
        return (Ahead(request.unique, node, version, protocol.attr_out(attributes, valid), end),)

    def _made_folder(self, request: Request, body: Body) -> Sequence[Ahead]:
        return (*self._changed(request, body), *self._new(request))

    def _new(self, request: Request) -> Sequence[Ahead]:
        """Of the folder that was just made: whoever makes files in it asks for each whether it is there."""
        above = self._tree.nodes.get(request.node)
        node = above.names.get(names(request.body, 8, 1)[0]) if above is not None else None
        if node is None or self._tree.hides_any(node):
            return ()
        version = node.version
        at = self._tree.watched_folder(node)
        if not node.watch or beneath.names_in(at):
            return ()
        return (Ahead(request.unique, node, version, what=protocol.NEW),)

    def _opened(self, request: Request, body: Body) -> Sequence[Ahead]:
        """Of a file that was just opened for reading: that it may stay open here, for the next who reads it.

        Once also what is in a small one, which the guest's kernel keeps, and the attributes: it asks for them
        again as what it has read may have changed the time of access.
        """
        [flags] = protocol.fields("<I4x", request.body)
        node = self._tree.nodes.get(request.node)
        if node is None or flags & _NOT_READ or node.changing:
            return ()
        version = node.version = node.version or object()
        [number] = protocol.fields("<Q", memoryview(body))
        file = self._handles.file(number).file.number
        if not self._tree.watches.trusted(node, os.fstat(file).st_nlink):
            return ()
        content: bytes = b""
        told: Sequence[Ahead] = ()
        if node.has_content is not version:
            content = os.pread(file, SMALL + 1, 0)
            told = self._attributes(request, node)
            node.has_content = version
        content = content if len(content) <= SMALL else b""
        return (*told, Ahead(request.unique, node, version, content, number, what=protocol.CONTENT))

    def _notice(self, ahead: Ahead) -> bytes:
        """Empty where it is out of date."""
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

    def _files(self, folder: Node, name: bytes) -> tuple[_Entry, ...]:
        """The files around one that was asked for. No folders: to watch each costs more than it saves."""
        if name <= folder.ahead:
            return ()
        at = self._tree.folder(folder)
        here = sorted(beneath.names_in(at))
        most = _EVERYTHING
        if len(here) > MOST:
            start = bisect.bisect_right(here, name)
            here = here[start : start + MOST]
            most = here[-1] if here else b""
        found, stopped = self._entries(folder, at, here, LONGEST)
        folder.ahead = max(folder.ahead, stopped or most)
        return found

    def _entries(
        self, folder: Node, at: Descriptor, here: Sequence[bytes], longest: float
    ) -> tuple[tuple[_Entry, ...], bytes]:
        """Those of the files `here` that the guest does not know, and where `longest` seconds were over."""
        found: list[_Entry] = []
        end = time.monotonic() + longest
        for name in here:
            if time.monotonic() > end:
                return tuple(found), name
            if name not in folder.names and not self._outbox.expects(folder, name):
                entry = self._file(folder, at, name)
                if entry is not None:
                    found.append(entry)
        return tuple(found), b""

    def _file(self, folder: Node, at: Descriptor, name: bytes) -> _Entry | None:
        """One of which each change is told; the guest knows it from here on."""
        try:
            found = beneath.status(at, name)
            if stat.S_ISDIR(found.st_mode) or found.st_nlink != 1 or self._tree.hides(folder, name):
                return None
            node, attributes = self._tree.take_in(folder, name, at, found)
        except (OSError, Refused):
            return None
        return node, name, self._entry(node, attributes, folder, name)
