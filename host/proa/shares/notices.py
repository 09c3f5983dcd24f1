"""What the guest is told without asking: what it is not to trust any more, and what to repeat.

A name is told once, however often it changes before the guest has taken it in; so what waits is bounded by
how many names there are in the folders that the guest knows, and repeats by a number.

Repeats are made one after the other, each some turns between the guest and here. Only who watches needs
them: so where many wait, the guest is asked once who does, and what nobody watches is left out. That answer
holds for all that happened before the question: whoever began to watch later has found it done.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from proa.shares import protocol
from proa.shares.nodes import Node, Place
from proa.shares.protocol import Notice
from proa.system.beneath import Status

log = logging.getLogger("proa.shares")

WINDOW = 512  # notices that may be under way
MOST_REPEATS = 20_000  # waiting; whoever changes more than that on the host has left the guest behind
MAKES = {
    stat.S_IFREG: b"f", stat.S_IFDIR: b"d", stat.S_IFLNK: b"l", stat.S_IFIFO: b"p", stat.S_IFSOCK: b"s",
}  # fmt: skip
FORGET = b"!"
MANY = 32  # repeats waiting that are worth a look at who watches; it costs about as much as ten of them
MOST_MANY = 4096  # as many, where it was found again and again that most are watched
Send = Callable[[int, bytes], None]  # a notice's code and its body; raises OSError


@dataclass(eq=False, slots=True)
class Repeat:
    """Changes of one name, in the order of `steps`: letters of guest/proa_guest/repeat.py.

    First a removal or none, then a making or none, then changes of content; a move stands alone.
    """

    number: int
    folder: Node
    name: bytes
    steps: bytes
    found: Status | None = None  # what was made, as it was then
    before: Node | None = None  # what has been removed, or replaced by a move
    to: Place | None = None
    source: Node | None = None  # what a move has moved
    failed: Callable[[], None] | None = None
    overtaken: bool = False  # by the guest, which has changed one of its names itself
    since: int = 0  # counts with `number`: when the last of its changes was taken in
    wanted: bool = False  # somebody watches

    @property
    def places(self) -> list[Place]:
        own = (self.folder, self.name)
        return [own, self.to] if self.to is not None else [own]

    @property
    def names(self) -> list[tuple[int, bytes]]:
        return [(folder.number, name) for folder, name in self.places]

    def is_told(self, watched: frozenset[int]) -> bool:
        """Whether it is more than nothing to those who watch these nodes: of its folders, or its files."""
        if self.steps == FORGET or self.failed is not None:
            return True
        to = self.to[0] if self.to is not None else None
        nodes = (self.folder, to, self.folder.names.get(self.name), self.before, self.source)
        return any(node is not None and node.number in watched for node in nodes)

    @property
    def body(self) -> bytes:
        to = (self.to[0].number, self.to[1]) if self.to is not None else (0, b"")
        return protocol.repeat(self.number, self.folder.number, self.name, to, self.steps)


@dataclass(frozen=True, slots=True)
class Look:
    """The question who watches."""

    number: int  # counts with those of the repeats

    @property
    def body(self) -> bytes:
        return protocol.look(self.number)


@contextmanager
def or_end(what: str) -> Iterator[None]:
    """Without this thread the guest would trust what is not true any more: then rather no server at all.

    The agent starts another, which compares all that the guest knows with what is there.
    """
    try:
        yield
    except Exception:
        log.exception("%s are not followed any more, so this server ends", what)
        os._exit(70)  # EX_SOFTWARE of sysexits.h


_Key = tuple[str, int, bytes]
_Item = tuple[int, _Key, int] | Repeat | Look  # what is under way


class Outbox:
    """Safe for several threads. A thread of its own sends, for a stream may be slow."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._waiting: OrderedDict[_Key, int] = OrderedDict()  # invalidations: flags, or whether content
        self._repeats: OrderedDict[int, Repeat] = OrderedDict()
        self._open: dict[tuple[int, bytes], Repeat] = {}  # those that later changes can join
        self._names: Counter[tuple[int, bytes]] = Counter()  # of the repeats that are to come or under way
        self._under_way: deque[_Item] = deque()
        self._send: Send | None = None
        self._next = 1
        self.current: Repeat | None = None  # the one that the guest is at
        self._look: Look | None = None  # which the guest is at
        self._many = MANY
        self._wanted = 0  # how many are, of those that wait
        self.told = self.repeated = self.lost = 0  # counts, for people
        self._thread: threading.Thread | None = None

    # -- the stream ---------------------------------------------------------------------------

    def begin(self, send: Send) -> None:
        """Go on over this stream, with what may not have arrived over the last."""
        with self._ready:
            self._send = send
            self._back()
            self._ready.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="notices", daemon=True)
                self._thread.start()

    def end(self) -> None:
        with self._ready:
            self._send = None

    def _back(self) -> None:
        while self._under_way:
            item = self._under_way.pop()
            if isinstance(item, tuple):
                self._waiting[item[1]] = item[2]
                self._waiting.move_to_end(item[1], last=False)
        if self.current is not None:
            self._repeats[self.current.number] = self.current
            self._repeats.move_to_end(self.current.number, last=False)
            self._wanted += self.current.wanted
            self.current = None
        self._look = None

    def arrived(self, count: int) -> None:
        with self._ready:
            for _ in range(min(count, len(self._under_way))):
                self._under_way.popleft()
            self._ready.notify_all()

    def repeat_ended(self, number: int, error: int) -> None:
        with self._ready:
            repeat = self.current
            if repeat is None or repeat.number != number:
                return
            self.current = None
            self._settle(repeat)
            self.repeated += 1
            self._ready.notify_all()
        if error and repeat.failed is not None:
            repeat.failed()
        for place in repeat.places if repeat.overtaken else ():
            self.entry(*place, expire=True)

    def watched(self, number: int, nodes: frozenset[int] | None) -> None:
        """The guest's answer: these nodes are watched, or any may be. What nobody watches is not repeated."""
        with self._ready:
            if self._look is None or self._look.number != number:
                return
            self._look = None
            decided = [one for one in self._repeats.values() if one.since < number and not one.wanted]
            for repeat in decided:
                repeat.wanted = nodes is None or repeat.is_told(nodes)
                self._wanted += repeat.wanted
                if not repeat.wanted:
                    self._drop(repeat)
            kept = sum(repeat.wanted for repeat in decided)
            self._many = min(2 * self._many, MOST_MANY) if 2 * kept > len(decided) else MANY
            self._ready.notify_all()

    def unsettled(self) -> list[tuple[int, bytes]]:
        """Folder and name (empty: the node itself) of what the guest may not have been told."""
        with self._ready:
            items = [item[1] for item in self._under_way if isinstance(item, tuple)]
            return [(number, name) for _, number, name in (*items, *self._waiting)]

    def quiet(self) -> bool:
        """Nothing waits, and nothing is under way."""
        with self._ready:
            return not (self._waiting or self._repeats or self._under_way or self.current)

    # -- what is to be told -------------------------------------------------------------------

    def entry(self, folder: Node, name: bytes, *, expire: bool = False) -> None:
        """The name is not to be trusted; with `expire` it may well be the same file."""
        flags = protocol.EXPIRE_ONLY if expire else 0
        key = ("entry", folder.number, name)
        folder.version = folder.news = object()
        with self._ready:
            self._waiting[key] = self._waiting.get(key, flags) & flags
            self._ready.notify_all()

    def inode(self, node: Node, *, content: bool) -> None:
        key = ("inode", node.number, b"")
        node.changed()
        node.news = node.version
        for folder, _ in tuple(node.places):
            folder.news = node.version
        with self._ready:
            self._waiting[key] = self._waiting.get(key, 0) | content
            self._ready.notify_all()

    def removed(self, folder: Node, name: bytes, before: Node) -> None:
        with self._ready:
            repeat = self._open.get((folder.number, name))
            if repeat is not None and repeat.found is not None:
                self._drop(repeat)  # nobody was told that it was made
                if repeat.before is None:
                    return
                before = repeat.before
            elif repeat is not None:
                self._drop(repeat)
            step = b"r" if before.is_folder else b"u"
            self._add(folder, name, step, before=before)

    def made(self, folder: Node, name: bytes, found: Status) -> None:
        step = MAKES.get(stat.S_IFMT(found.st_mode))
        if step is None:
            return
        with self._ready:
            repeat = self._open.get((folder.number, name))
            if repeat is not None and repeat.found is None and repeat.before is not None:
                repeat.steps, repeat.found, repeat.since = repeat.steps + step, found, self._next
            else:
                self._add(folder, name, step, found=found)

    def changed(self, folder: Node, name: bytes, step: bytes) -> None:
        with self._ready:
            repeat = self._open.get((folder.number, name))
            if repeat is None:
                self._add(folder, name, step)
            else:
                repeat.since = self._next
                repeat.steps += step if step not in repeat.steps else b""

    def moved(
        self,
        old: Place,
        new: Place,
        source: Node,
        replaced: Node | None,
        failed: Callable[[], None] | None,
    ) -> None:
        with self._ready:
            self._add(*old, b"v", before=replaced, to=new, source=source, failed=failed)
            for folder, name in (old, new):
                self._open.pop((folder.number, name), None)  # what comes later, comes after the move

    def forget_all(self, top: Node) -> None:
        """Nothing that the guest has cached is true any more."""
        with self._ready:
            self._add(top, b"", FORGET)

    def expects(self, folder: Node, name: bytes) -> bool:
        """Whether a repeat is to find the name as it was: until then the guest must ask for it each time."""
        return bool(self._names) and (folder.number, name) in self._names

    def overtaken(self, folder: Node, name: bytes) -> None:
        """The guest has changed the name itself, and may trust it as it is before it is repeated what was."""
        if not self.expects(folder, name):
            return
        with self._ready:
            if self.current is not None and (folder.number, name) in self.current.names:
                self.current.overtaken = True
        self.entry(folder, name, expire=True)

    def _settle(self, repeat: Repeat) -> None:
        for key in repeat.names:
            self._names[key] -= 1
            if not self._names[key]:
                del self._names[key]

    def _drop(self, repeat: Repeat) -> None:
        self._settle(repeat)
        if self._repeats.pop(repeat.number, None) is not None:
            self._wanted -= repeat.wanted
        key = (repeat.folder.number, repeat.name)
        if self._open.get(key) is repeat:
            del self._open[key]

    def _add(
        self,
        folder: Node,
        name: bytes,
        steps: bytes,
        *,
        found: Status | None = None,
        before: Node | None = None,
        to: Place | None = None,
        source: Node | None = None,
        failed: Callable[[], None] | None = None,
    ) -> None:
        if len(self._repeats) >= MOST_REPEATS:
            self.lost += 1
            if self.lost == 1:
                log.warning("more changes than the guest can be told of: some are seen, but not told")
            if failed is not None:
                failed()
            return
        repeat = Repeat(self._next, folder, name, steps, found, before, to, source, failed, since=self._next)
        self._next += 1
        self._repeats[repeat.number] = repeat
        self._open[folder.number, name] = repeat
        self._names.update(repeat.names)
        self._ready.notify_all()

    # -- sending ------------------------------------------------------------------------------

    def _work(self) -> None:
        with or_end("notices to the guest"):
            while True:
                self._tell_next()

    def _tell_next(self) -> None:
        with self._ready:
            self._ready.wait_for(self._something)
            send, item = self._send, self._take()
            self.told += 1
        assert send is not None
        try:
            if isinstance(item, tuple):
                send(item[0], _body(item))
            else:
                send(Notice.REPEAT if isinstance(item, Repeat) else Notice.LOOK, item.body)
        except OSError as error:
            log.debug("a notice waits for the next stream: %s", error)
            with self._ready:
                if self._send is send:
                    self._send = None

    def _something(self) -> bool:
        if self._send is None or len(self._under_way) >= WINDOW:
            return False
        return bool(self._waiting or (self._repeats and self.current is None and not self._look))

    def _take(self) -> _Item:
        """What is next, under way from here on; a repeat comes after all invalidations."""
        item: _Item
        if self._waiting:
            key, value = self._waiting.popitem(last=False)
            code = Notice.INVAL_ENTRY if key[0] == "entry" else Notice.INVAL_INODE
            item = (code, key, value)
        elif len(self._repeats) - self._wanted >= self._many:
            item = self._look = Look(self._next)
            self._next += 1
        else:
            _, item = self._repeats.popitem(last=False)
            self._wanted -= item.wanted
            if self._open.get((item.folder.number, item.name)) is item:
                del self._open[item.folder.number, item.name]
            self.current = item
        self._under_way.append(item)
        return item


def _body(item: tuple[int, _Key, int]) -> bytes:
    _, (_, number, name), value = item
    if item[0] == Notice.INVAL_ENTRY:
        return protocol.inval_entry(number, name, value)
    return protocol.inval_inode(number, content=bool(value))
