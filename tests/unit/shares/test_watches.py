"""A watcher that loses count, or takes no more: what the guest is told then. The watcher is scripted."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from proa.shares import protocol
from proa.shares.protocol import Notice
from proa.system.watching import Change, Kind
from tests.support.share_worlds import Scripted, World


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


def test_what_cannot_be_watched_is_asked_for_each_time(
    world: Callable[[Scripted], World], tmp_path: Path
) -> None:
    way = len(tmp_path.parents)  # what leads to a shared folder is watched, too
    watcher = Scripted(room=way + 2)
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
