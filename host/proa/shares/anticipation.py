"""What the guest will ask for next, told along with an answer: so a cold folder costs one round trip, and
not one for each of its files.

What was read may be out of date when it is sent. So it is sent only if nothing has changed in the folder
since before it was read; whatever changes later is told later, over the same stream.
"""

from __future__ import annotations

import bisect
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proa.shares import protocol
from proa.shares.handles import Body, Handles
from proa.shares.listings import whole
from proa.shares.nodes import Node, Place
from proa.shares.notices import Outbox
from proa.shares.protocol import Attributes, Op, Refused, Request, names
from proa.shares.tree import Tree
from proa.system import beneath
from proa.system.beneath import Descriptor

MOST = 256  # names told at once; the rest of a larger folder when one behind them is asked for
# The same where the guest walks from folder to folder: names in one of them, names and seconds in all.
MOST_WALKED, LEAST_IN_WALK, MOST_IN_WALK, LONGEST_WALK = 64, 64, 1024, 0.01
MOST_BESIDE = 4096  # names in a folder whose folders are still worth going through
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
    attributes: bytes = b""  # or a file's content, or how a folder reads
    end: int = 0  # or a file's handle
    entries: tuple[_Entry, ...] = ()
    what: int = 0  # protocol.NEW, protocol.CONTENT, protocol.LISTING


@dataclass(slots=True)
class _Walk:
    """What is told of several folders at once."""

    unique: int
    room: int  # names beyond the first folder's
    end: float
    found: list[Ahead] = field(default_factory=list)

    def is_over(self) -> bool:
        return self.room <= 0 or time.monotonic() > self.end


def _is_behind(node: Node | None) -> bool:
    """Whether a walk has come past it."""
    return node is not None and (not node.is_folder or bool(node.ahead or node.walked))


class Anticipation:
    """Safe for several threads."""

    def __init__(
        self,
        tree: Tree,
        outbox: Outbox,
        valid: Callable[[Node, Attributes], int],
        handles: Handles,
    ) -> None:
        self._tree = tree
        self._handles = handles
        self._outbox = outbox
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
            return self._walk(request.unique, (folder, name)) if folder.walked and not node.ahead else ()
        if name <= folder.ahead:
            return ()
        told: Sequence[Ahead] = ()
        for place in tuple(folder.places)[-1:]:
            if place[0].walked and not folder.ahead:
                told = self._walk(request.unique, place)
            place[0].walked = place[0].walked or LEAST_IN_WALK
        if name <= folder.ahead:
            return told
        version = folder.version
        entries = self._files(folder, name)
        return (*told, Ahead(request.unique, folder, version, entries=entries)) if entries else told

    def _walk(self, unique: int, place: Place) -> Sequence[Ahead]:
        """Files were asked for in a folder beside this one: so they will be in this one.

        And where the guest goes through them in the order of paths, as git and most others do, in what
        follows: each time twice as much. Who picks one here and there, as a program does its modules, is told
        of that one only.
        """
        above, name = place
        at = self._tree.folder(above)
        here = sorted(beneath.names_in(at))
        start = bisect.bisect_left(here, name)
        in_order = len(here) <= MOST_BESIDE and start > 0 and _is_behind(above.names.get(here[start - 1]))
        above.walked = min(2 * above.walked, MOST_IN_WALK) if in_order else LEAST_IN_WALK
        walk = _Walk(unique, above.walked if in_order else 0, time.monotonic() + LONGEST_WALK)
        for higher, _ in tuple(above.places):
            higher.walked = higher.walked or LEAST_IN_WALK  # this is not the first folder in it
        version = above.version
        entries: list[_Entry] = []
        first = above.names.get(name)
        if first is not None:
            self._all_in(walk, first)
        for other in here[start + 1 :]:
            if walk.is_over():
                break
            node = above.names.get(other)
            if node is None and (entry := self._one(above, at, other)) is not None:
                entries.append(entry)
                node = entry[0]
            if node is not None and node.is_folder:
                self._all_in(walk, node)
        return (Ahead(unique, above, version, entries=tuple(entries)), *walk.found)

    def _all_in(self, walk: _Walk, folder: Node) -> None:
        """Tell all that is in a folder and how it reads, and what is below if there is room."""
        if not folder.watch or folder.renaming or folder.ahead or self._tree.hides_any(folder):
            return
        version = folder.version
        try:
            at = self._tree.folder(folder)
            here = sorted(beneath.names_in(at))
            attributes = self._tree.attributes_of(folder)
        except (OSError, Refused):
            return  # whoever asks for it will be told
        if len(here) > MOST_WALKED:
            return
        folder.ahead, folder.walked = _EVERYTHING, max(folder.walked, LEAST_IN_WALK)
        new = [entry for name in here if name not in folder.names and (entry := self._one(folder, at, name))]
        listing, end = whole(self._tree, folder, here)
        told = protocol.attr_out(attributes, self._valid(folder, attributes))
        walk.found.append(Ahead(walk.unique, folder, version, told, end, tuple(new)))
        walk.found.append(Ahead(walk.unique, folder, version, listing, what=protocol.LISTING))
        walk.room -= 1 + len(new)
        for node in [folder.names.get(name) for name in here]:
            if walk.is_over():
                return
            if node is not None and node.is_folder:
                self._all_in(walk, node)

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
        if not self._tree.watches.trusted(node, beneath.fstat(file).st_nlink):
            return ()
        content: bytes = b""
        told: Sequence[Ahead] = ()
        if node.has_content is not version:
            content = beneath.pread(file, SMALL + 1, 0)
            told = self._attributes(request, node)
            node.has_content = version
        content = content if len(content) <= SMALL else b""
        return (*told, Ahead(request.unique, node, version, content, number, what=protocol.CONTENT))

    def _notice(self, ahead: Ahead) -> bytes:
        """Empty where it is out of date."""
        node = ahead.node
        same = (
            node.version is ahead.version
            and not node.renaming
            and not node.changing
            and self._tree.nodes.get(node.number) is node
        )
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
        """The files around one that was asked for. No folders: who wants a file may go into none of them."""
        at = self._tree.folder(folder)
        here = sorted(beneath.names_in(at))
        most = _EVERYTHING
        if len(here) > MOST:
            start = bisect.bisect_right(here, name)
            here = here[start : start + MOST]
            most = here[-1] if here else b""
        found, stopped = self._entries(folder, at, here)
        folder.ahead = max(folder.ahead, stopped or most)
        return found

    def _entries(
        self, folder: Node, at: Descriptor, here: Sequence[bytes]
    ) -> tuple[tuple[_Entry, ...], bytes]:
        """Those of the files `here` that the guest does not know, and where the time was over."""
        found: list[_Entry] = []
        end = time.monotonic() + LONGEST
        for name in here:
            if time.monotonic() > end:
                return tuple(found), name
            if name not in folder.names:
                entry = self._one(folder, at, name, folders=False)
                if entry is not None:
                    found.append(entry)
        return tuple(found), b""

    def _one(self, folder: Node, at: Descriptor, name: bytes, *, folders: bool = True) -> _Entry | None:
        """One of which each change is told; the guest knows it from here on."""
        try:
            if self._outbox.expects(folder, name) or self._tree.hides(folder, name):
                return None
            found = beneath.status(at, name)
            is_folder = stat.S_ISDIR(found.st_mode)
            if not folders if is_folder else found.st_nlink != 1:
                return None
            node, attributes = self._tree.take_in(folder, name, at, found)
        except (OSError, Refused):
            return None
        valid = protocol.FOREVER if node.watch or not is_folder else 0
        return node, name, protocol.entry_out(node.number, attributes, protocol.FOREVER, valid)
