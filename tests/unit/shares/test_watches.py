"""A watcher that loses count, or takes no more: what the guest is told then. The watcher is scripted."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from proa.shares import protocol
from proa.shares.nodes import Node, Root
from proa.shares.operations import Operations
from proa.shares.protocol import Notice, Op, Request
from proa.shares.tree import Allowed, Tree
from proa.shares.watches import Watches
from proa.system.watching import Change, Kind, TooManyWatchesError


class Scripted:
    """Takes `room` watches and tells of nothing by itself."""

    def __init__(self, room: int = 100, *, elsewhere: bool = False) -> None:
        self.room = room
        self.elsewhere = elsewhere
        self.last = 0

    def watch(self, parent: int, name: bytes, *, folder: bool) -> int:
        if not self.room:
            raise TooManyWatchesError(errno.ENOSPC, "the limit is reached")
        self.room -= 1
        self.last += 1
        return self.last

    def unwatch(self, watch: int) -> None:
        self.room += 1

    def tells_all(self, device: int) -> bool:
        return not self.elsewhere

    def read(self, timeout: float) -> list[Change]:
        time.sleep(min(timeout, 0.01))
        return []

    def close(self) -> None:
        pass


class World:
    def __init__(self, folder: Path, watcher: Scripted) -> None:
        self.folder = folder
        self.watches = Watches(watcher)
        self.watches.heard = True
        allowed = Allowed((Root(os.fsencode(folder)),))
        self.operations = Operations(Tree(allowed, watches=self.watches))
        self.told: list[tuple[int, bytes]] = []
        self.top = self.operations.tree.nodes.top
        for name in os.fsencode(folder).split(b"/")[1:]:
            self.top = self.look_up(self.top, name)

    def look_up(self, parent: Node, name: bytes) -> Node:
        return self.operations.tree.look_up(parent, name)[0]

    def valid(self, parent: Node, name: bytes) -> tuple[int, int]:
        """For how many seconds the guest may trust the name, and the attributes."""
        request = Request(Op.LOOKUP, 2, parent.number, 0, 0, 0, memoryview(name + b"\0"))
        body = self.operations.answer(request)
        assert body is not None
        _, _, name_valid, valid, _, _ = protocol.ENTRY_OUT.unpack_from(body)
        return name_valid, valid

    def begin(self) -> None:
        """The guest listens from here on, and takes in all at once."""

        def send(code: int, body: bytes) -> None:
            self.told.append((code, body))
            self.operations.outbox.arrived(1)
            if code == Notice.REPEAT:
                self.operations.outbox.repeat_ended(int.from_bytes(body[:8], "little"), 0)

        self.operations.outbox.begin(send)

    def until_told(self, *wanted: tuple[int, bytes]) -> None:
        end = time.monotonic() + 10
        while not set(wanted) <= set(self.told):
            assert time.monotonic() < end, (wanted, self.told)
            time.sleep(0.005)


@pytest.fixture
def world(tmp_path: Path) -> Callable[[Scripted], World]:
    return lambda watcher: World(tmp_path, watcher)


def test_everything_is_looked_at_when_the_watcher_lost_count(world: Callable[[Scripted], World]) -> None:
    found = world(Scripted())
    for name in ("changed", "gone", "same", "replaced"):
        (found.folder / name).write_text("x")
    nodes = {name: found.look_up(found.top, name) for name in (b"changed", b"gone", b"same", b"replaced")}
    (found.folder / "changed").write_text("longer")
    (found.folder / "gone").unlink()
    (found.folder / "new").write_text("x")
    (found.folder / "other").write_text("y")
    (found.folder / "other").replace(found.folder / "replaced")
    found.operations.coherence.follow([Change(-1, Kind.OVERFLOW)])
    found.begin()
    top = found.top.number
    found.until_told(
        (Notice.INVAL_INODE, protocol.inval_inode(nodes[b"changed"].number, content=True)),
        (Notice.INVAL_INODE, protocol.inval_inode(top, content=True)),
        (Notice.INVAL_ENTRY, protocol.inval_entry(top, b"gone")),
        (Notice.INVAL_ENTRY, protocol.inval_entry(top, b"replaced")),
        (Notice.INVAL_ENTRY, protocol.inval_entry(top, b"new", protocol.EXPIRE_ONLY)),
    )
    same = nodes[b"same"].number
    assert not any(
        code == Notice.INVAL_INODE and body[:8] == same.to_bytes(8, "little") for code, body in found.told
    )


def test_what_cannot_be_watched_is_asked_for_each_time(world: Callable[[Scripted], World]) -> None:
    watcher = Scripted(room=2)
    found = world(watcher)
    for name in ("one", "two"):
        (found.folder / name).mkdir()
        (found.folder / name / "file").write_text("x")
    one, two = found.look_up(found.top, b"one"), found.look_up(found.top, b"two")
    assert found.valid(one, b"file") == (protocol.FOREVER, protocol.FOREVER)
    assert found.valid(two, b"file") == (0, 0)
    assert "limit" in found.watches.problem
    with pytest.raises(FileNotFoundError):
        found.valid(two, b"none")  # not even that it is missing is trusted
    one_more = found.operations.tree.nodes
    one_more.forget(one.number, one.lookups)
    assert not found.watches.problem, "there is room again"
    assert found.valid(two, b"file") == (protocol.FOREVER, protocol.FOREVER)


def test_a_disk_where_others_write_too_is_not_trusted(world: Callable[[Scripted], World]) -> None:
    found = world(Scripted(elsewhere=True))
    (found.folder / "file").write_text("x")
    assert found.valid(found.top, b"file") == (0, 0)
    assert len(found.watches) == 0 and not found.watches.problem


def test_what_is_not_told_yet_is_told_over_the_next_stream(world: Callable[[Scripted], World]) -> None:
    found = world(Scripted())
    (found.folder / "a").write_text("x")
    found.look_up(found.top, b"a")
    sent: list[int] = []

    def broken(code: int, body: bytes) -> None:
        sent.append(code)
        raise BrokenPipeError

    found.operations.outbox.begin(broken)
    (found.folder / "a").unlink()
    found.operations.coherence.follow([Change(found.top.watch, Kind.DELETED, b"a")])
    end = time.monotonic() + 10
    while not sent:
        assert time.monotonic() < end
        time.sleep(0.005)
    found.begin()
    found.until_told(
        (Notice.INVAL_ENTRY, protocol.inval_entry(found.top.number, b"a")),
        (Notice.REPEAT, protocol.repeat(1, found.top.number, b"a", (0, b""), b"u")),
    )
