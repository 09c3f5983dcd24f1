"""What the guest's kernel counts on, on disk: so that its mount outlives the server, and the machine's sleep.

Names are bytes, written as Latin-1 text. Written when the server ends; used once, by the next one.
"""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

assert sys.platform != "win32"  # as proa.system.beneath

from proa.shares.nodes import Node, Root
from proa.shares.owners import Owner
from proa.system.files import write_atomic

if TYPE_CHECKING:
    from proa.shares.operations import Operations
    from proa.shares.server import Answers

FORMAT = 2
KNOWN_FORMATS = (1, 2)  # 1: nothing of it says what the guest was told


class SavedNode(msgspec.Struct, array_like=True, frozen=True):
    number: int
    identity: tuple[int, int, int]
    root: str | None
    above: str
    lookups: int
    is_top: bool
    places: list[tuple[int, str]]
    told: tuple[int, int, int] | None = None
    own: tuple[int, int, int] | None = None


class SavedHandle(msgspec.Struct, array_like=True, frozen=True):
    number: int
    node: int
    kind: str  # "file", "folder"
    writable: bool


class Saved(msgspec.Struct, frozen=True):
    format: int
    next_node: int
    next_handle: int
    nodes: list[SavedNode]
    handles: list[SavedHandle]
    owners: list[tuple[int, int, int, int, int]]  # device, inode, uid, gid, bits
    answers: list[tuple[int, int, str]]  # unique, error, body
    when: int = 0  # nanoseconds of the host's clock
    unsettled: list[tuple[int, str]] = []  # folder and name of what the guest may not have been told


class StateError(Exception):
    """The file is not one that can be gone on from."""


def save(path: Path, operations: Operations, answers: Answers) -> None:
    """Raises OSError, ProaError."""
    nodes = operations.tree.nodes
    saved = Saved(
        format=FORMAT,
        next_node=nodes.next_number,
        next_handle=operations.handles.next_number,
        nodes=[
            SavedNode(
                node.number,
                node.identity,
                _text(node.root.path) if node.root is not None else None,
                _text(node.above),
                node.lookups,
                node.is_top,
                [(parent.number, _text(name)) for parent, name in node.places],
                node.told,
                node.own,
            )
            for node in nodes.all()
        ],
        handles=[
            SavedHandle(number, node.number, "folder" if writable is None else "file", bool(writable))
            for number, node, writable in operations.handles.all()
        ],
        owners=[(*key, owner.uid, owner.gid, owner.bits) for key, owner in operations.tree.owners.table()],
        answers=[(unique, number, _text(body)) for unique, number, body in answers.all()],
        when=time.time_ns(),
        unsettled=[(number, _text(name)) for number, name in operations.outbox.unsettled()],
    )
    write_atomic(path, msgspec.json.encode(saved))


def load(path: Path, operations: Operations, answers: Answers) -> None:
    """Go on from what `save` wrote, and remove it. Raises StateError, OSError."""
    saved = _read(path)
    path.unlink()
    nodes = _nodes(saved, operations)
    operations.tree.nodes.restore(nodes, saved.next_node)
    for device, inode, uid, gid, bits in saved.owners:
        operations.tree.owners.put((device, inode), Owner(uid, gid, bits))
    kept = [
        (held.number, nodes[held.node], None if held.kind == "folder" else held.writable)
        for held in saved.handles
        if held.node in nodes
    ]
    operations.handles.restore(kept, saved.next_handle)
    for number, name in saved.unsettled:
        if number in nodes and name:
            operations.outbox.entry(nodes[number], _bytes(name))
        elif number in nodes:
            operations.outbox.inode(nodes[number], content=True)
    operations.coherence.shares_changed()  # since then, it may be
    operations.coherence.go_on_from(saved.when)
    answers.restore([(unique, number, _bytes(body)) for unique, number, body in saved.answers])


def begin_anew(operations: Operations) -> None:
    """Go on where a server ended without a word: no number of its may come to stand for another file."""
    operations.outbox.forget_all(operations.tree.nodes.top)
    first = secrets.randbits(60)
    operations.tree.nodes.number_from(first)
    operations.handles.next_number = first


def _read(path: Path) -> Saved:
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=Saved)
    except msgspec.MsgspecError as error:
        raise StateError(f"{path}: {error}") from error
    if saved.format not in KNOWN_FORMATS:
        raise StateError(f"{path}: format {saved.format}, and this is {FORMAT}")
    return saved


def _nodes(saved: Saved, operations: Operations) -> dict[int, Node]:
    found: dict[int, Node] = {}
    for kept in saved.nodes:
        root = None
        if kept.root is not None:
            # One that is not shared any more: whoever asks is refused.
            root = operations.tree.root(_bytes(kept.root)) or Root(_bytes(kept.root))
        node = Node(kept.number, kept.identity, root, _bytes(kept.above), lookups=kept.lookups)
        node.is_top = kept.is_top
        node.told, node.own = kept.told, kept.own
        found[kept.number] = node
    for kept in saved.nodes:
        for parent, name in kept.places:
            if parent in found:
                found[kept.number].places[found[parent], _bytes(name)] = None
                found[parent].names[_bytes(name)] = found[kept.number]
    return found


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _bytes(value: str) -> bytes:
    return value.encode("latin-1")
