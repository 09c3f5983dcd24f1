"""What the guest's kernel counts on, on disk: so that its mount outlives the server, and the machine's sleep.

A server that ends writes down how it leaves things. One that is killed leaves its journal, which tells all of
it but how often the guest knows a file, and what it was told of how that looks.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proa.shares import journal, records
from proa.shares.locks import Key
from proa.shares.nodes import Node, Place, Root, as_record
from proa.shares.owners import Owner
from proa.shares.protocol import CLOSED_LATE
from proa.shares.records import Record, data, text

if TYPE_CHECKING:
    from proa.shares.operations import Operations
    from proa.shares.server import Answers
    from proa.system.beneath import Descriptor

FORMAT = 3
APART = 1 << 20  # numbers that a killed server may have given out and not written down


class StateError(Exception):
    """The file is not one that can be gone on from."""


def present(operations: Operations, answers: Answers, *, ended: bool) -> Iterator[Record]:
    """How things are; with `ended` nothing happens any more."""
    nodes, handles = operations.tree.nodes, operations.handles
    yield records.Began(FORMAT, ended, nodes.next_number, handles.next_number)
    yield records.Agreed(operations.tree.opens_no_folders, operations.tree.asks_for_locks)
    everything = nodes.all()
    for node in everything:
        yield as_record(node, counted=ended)
    for node in everything:
        for folder, name in tuple(node.places):
            yield records.Placed(node.number, folder.number, text(name))
    for number, node, writable in handles.all():
        yield records.Opened(number, node.number, writable)
    yield from operations.locks.records()
    for key, owner in operations.tree.owners.table():
        yield records.Owned(*key, owner.uid, owner.gid, owner.bits)
    for unique, error, body in answers.all():
        yield records.Answered(unique, error, text(body))
    for unique in answers.unsure():
        yield records.Begun(unique)
    for number, name in operations.outbox.unsettled():
        yield records.Unsettled(number, text(name))


def load(path: Path, operations: Operations, answers: Answers, left: Mapping[int, Descriptor]) -> None:
    """Go on from what is written down; the journal that is begun then takes its place.

    `left` are descriptors of files that have no name any more, by their handles' numbers, and of locks.
    Raises StateError, OSError.
    """
    last, began, told = _read(path)
    replayed = _Replay(operations)
    for record in told:
        replayed.take(record)
    apart = 0 if began.ended else APART
    nodes = replayed.nodes
    operations.tree.nodes.restore(nodes, max(began.next_node, *nodes, 0) + apart)
    for key, owner in replayed.owners.items():
        operations.tree.owners.put(key, owner)
    kept = [
        (number, nodes[opened.node], opened.writable)
        for number, opened in replayed.opened.items()
        if opened.node in nodes
    ]
    numbers = [number & ~CLOSED_LATE for number in replayed.opened]
    numbers += [record.number for record in replayed.locks.values()]
    operations.handles.restore(kept, max(began.next_handle, *numbers, 0) + apart, left)
    operations.locks.restore(replayed.locks, nodes, left)
    tree = operations.tree
    tree.opens_no_folders, tree.asks_for_locks = (
        replayed.agreed.opens_no_folders,
        replayed.agreed.asks_for_locks,
    )
    for number, name in replayed.unsettled:
        if number in nodes and name:
            operations.outbox.entry(nodes[number], name)
        elif number in nodes:
            operations.outbox.inode(nodes[number], content=True)
    operations.coherence.shares_changed()  # since then, it may be
    if began.ended:
        operations.coherence.go_on_from(last)
    else:
        operations.coherence.go_on_after_a_kill(last)
    answers.restore(replayed.answers, replayed.begun)


def load_owners(path: Path, operations: Operations) -> None:
    """Of files that cannot hold their owner themselves; a guest that was just booted knows nothing else.

    Raises StateError, OSError.
    """
    _, _, told = _read(path)
    replayed = _Replay(operations)
    for record in told:
        if isinstance(record, records.Owned | records.Disowned):
            replayed.take(record)
    for key, owner in replayed.owners.items():
        operations.tree.owners.put(key, owner)


def begin_anew(operations: Operations) -> None:
    """Go on where a server left nothing: no number of its may come to stand for another file."""
    operations.outbox.forget_all(operations.tree.nodes.top)
    first = secrets.randbits(60)
    operations.tree.nodes.number_from(first)
    operations.handles.next_number = first


def _read(path: Path) -> tuple[int, records.Began, list[Record]]:
    try:
        last, lines = journal.read(path)
    except ValueError as error:  # msgspec's are such, too
        raise StateError(f"{path}: {error}") from error
    began = lines[0] if lines else None
    if not isinstance(began, records.Began):
        raise StateError(f"{path}: it does not begin as it should")
    if began.format != FORMAT:
        raise StateError(f"{path}: format {began.format}, and this is {FORMAT}")
    return last, began, lines[1:]


class _Replay:
    """How things are after all that is written down."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self.nodes: dict[int, Node] = {}
        self.opened: dict[int, records.Opened] = {}
        self.owners: dict[tuple[int, int], Owner] = {}
        self.answers: list[tuple[int, int, bytes]] = []
        self.begun: set[int] = set()
        self.locks: dict[Key, records.Locked] = {}
        self.agreed = records.Agreed(opens_no_folders=False, asks_for_locks=False)
        self.unsettled: list[tuple[int, bytes]] = []

        self._takes: dict[type, Callable[[Any], object]] = {
            records.Known: self._know,
            records.Placed: self._place,
            records.Left: self._leave,
            records.Dropped: self._drop,
            records.Opened: self._open,
            records.Closed: lambda record: self.opened.pop(record.number, None),
            records.Owned: self._own,
            records.Disowned: lambda record: self.owners.pop((record.device, record.inode), None),
            records.Begun: lambda record: self.begun.add(record.unique),
            records.Answered: self._answer,
            records.Agreed: self._agree,
            records.Locked: self._lock,
            records.Unsettled: lambda record: self.unsettled.append((record.folder, data(record.name))),
        }

    def take(self, record: Record) -> None:
        take = self._takes.get(type(record))
        if take is not None:
            take(record)

    def _agree(self, record: records.Agreed) -> None:
        self.agreed = record

    def _lock(self, record: records.Locked) -> None:
        key = Key(record.node, record.owner, record.by_flock)
        if record.held:
            self.locks[key] = record
        else:
            self.locks.pop(key, None)

    def _open(self, record: records.Opened) -> None:
        self.opened[record.number] = record

    def _own(self, record: records.Owned) -> None:
        self.owners[record.device, record.inode] = Owner(record.uid, record.gid, record.bits)

    def _answer(self, record: records.Answered) -> None:
        self.begun.discard(record.unique)
        self.answers.append((record.unique, record.error, data(record.body)))

    def _know(self, kept: records.Known) -> None:
        node = self.nodes.get(kept.number)
        if node is None:
            root = None
            if kept.root is not None:
                # One that is not shared any more: whoever asks is refused.
                path = data(kept.root)
                root = self._operations.tree.root(path) or Root(path)
            node = self.nodes[kept.number] = Node(kept.number, kept.identity, root, data(kept.above))
            node.lookups, node.uncounted = kept.lookups or 0, kept.lookups is None
            node.told, node.own = kept.told, kept.own
        node.is_top = kept.is_top
        if kept.folder:
            self._place(records.Placed(kept.number, kept.folder, kept.name))

    def _at(self, record: records.Placed | records.Left) -> tuple[Node, Place] | None:
        node, folder = self.nodes.get(record.number), self.nodes.get(record.folder)
        return (node, (folder, data(record.name))) if node is not None and folder is not None else None

    def _place(self, record: records.Placed) -> None:
        if found := self._at(record):
            node, place = found
            node.places.pop(place, None)
            node.places[place] = None
            place[0].names[place[1]] = node

    def _leave(self, record: records.Left) -> None:
        if found := self._at(record):
            node, place = found
            node.places.pop(place, None)
            if place[0].names.get(place[1]) is node:
                del place[0].names[place[1]]

    def _drop(self, record: records.Dropped) -> None:
        node = self.nodes.pop(record.number, None)
        for parent, name in node.places if node is not None else ():
            if parent.names.get(name) is node:
                del parent.names[name]
