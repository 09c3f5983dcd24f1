"""Changes of the host's that come while the guest is at one of its own: none is taken for the guest's.

In what order the two are seen is scripted, for with a real watcher it is a matter of luck.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("the share server's core is not for Windows yet", allow_module_level=True)

from proa.shares import protocol
from proa.shares.nodes import Node
from proa.shares.owners import Owner
from proa.shares.protocol import Notice, Op
from proa.shares.server import Server
from proa.system.watching import Change, Kind
from tests.support.share_worlds import Scripted, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, Scripted())


def meanwhile(
    monkeypatch: pytest.MonkeyPatch, call: str, world: World, *changes: Change, first: Callable[[], None]
) -> None:
    """The host does `first`, and it is told, just before the guest's own `call` of the system."""
    real: Callable[..., object] = getattr(os, call)

    def late(*given: object, **named: object) -> object:
        monkeypatch.setattr(os, call, real)
        first()
        world.operations.coherence.follow(list(changes))
        return real(*given, **named)

    monkeypatch.setattr(os, call, late)


def attributes(node: Node, *, content: bool = False) -> tuple[int, bytes]:
    return (Notice.INVAL_INODE, protocol.inval_inode(node.number, content=content))


def told(world: World, wanted: Sequence[tuple[int, bytes]]) -> None:
    world.begin()
    world.until_told(*wanted)


def test_attributes_changed_while_the_guest_fails_to_remove(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.folder / "a/b").mkdir(parents=True)
    node = world.look_up(world.top, b"a")
    meanwhile(
        monkeypatch, "rmdir", world,
        Change(node.watch, Kind.ATTRIBUTES), Change(world.top.watch, Kind.ATTRIBUTES, b"a"),
        first=lambda: os.chmod(world.folder / "a", 0o700),
    )  # fmt: skip
    with pytest.raises(OSError, match="not empty"):
        world.ask(Op.RMDIR, world.top, b"a\0")
    told(world, [attributes(node)])


def test_attributes_changed_before_the_guest_fails_to_remove(world: World) -> None:
    (world.folder / "a/b").mkdir(parents=True)
    node = world.look_up(world.top, b"a")
    os.chmod(world.folder / "a", 0o700)
    with pytest.raises(OSError, match="not empty"):
        world.ask(Op.RMDIR, world.top, b"a\0")
    world.operations.coherence.follow([Change(node.watch, Kind.ATTRIBUTES)])
    told(world, [attributes(node)])


def test_a_name_removed_while_the_guest_fails_to(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.folder / "a").write_text("x")
    world.look_up(world.top, b"a")
    meanwhile(
        monkeypatch, "unlink", world,
        Change(world.top.watch, Kind.DELETED, b"a"),
        first=(world.folder / "a").unlink,
    )  # fmt: skip
    with pytest.raises(FileNotFoundError):
        world.ask(Op.UNLINK, world.top, b"a\0")
    told(world, [(Notice.INVAL_ENTRY, protocol.inval_entry(world.top.number, b"a"))])


def test_a_name_made_while_the_guest_fails_to(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        world.look_up(world.top, b"a")
    meanwhile(
        monkeypatch, "mkdir", world,
        Change(world.top.watch, Kind.CREATED | Kind.FOLDER, b"a"),
        first=lambda: (world.folder / "a").symlink_to("b"),
    )  # fmt: skip
    with pytest.raises(FileExistsError):
        world.ask(Op.MKDIR, world.top, struct.pack("<II", 0o755, 0) + b"a\0")
    told(world, [(Notice.INVAL_ENTRY, protocol.inval_entry(world.top.number, b"a"))])


def _opened(world: World, node: Node) -> int:
    [number] = struct.unpack_from("<Q", world.ask(Op.OPEN, node, struct.pack("<II", os.O_RDWR, 0)))
    return int(number)


def _write(world: World, node: Node, handle: int, data: bytes, at: int) -> None:
    head = struct.pack("<QQIIQI4x", handle, at, len(data), 0, 0, os.O_RDWR)
    world.ask(Op.WRITE, node, head + data)


def test_content_changed_before_the_guest_writes(world: World) -> None:
    (world.folder / "a").write_text("0123")
    node = world.look_up(world.top, b"a")
    handle = _opened(world, node)
    (world.folder / "a").write_text("4567 and more")
    _write(world, node, handle, b"x", 0)
    world.operations.coherence.follow([Change(world.top.watch, Kind.MODIFIED, b"a")])
    told(world, [attributes(node, content=True)])


def test_content_changed_before_the_guest_looks_and_writes(world: World) -> None:
    """It has been told of the new size, but keeps what it had read."""
    (world.folder / "a").write_text("0123")
    node = world.look_up(world.top, b"a")
    handle = _opened(world, node)
    os.chmod(world.folder / "a", 0o600)
    (world.folder / "a").write_text("4567 and more")
    world.operations.coherence.follow([Change(world.top.watch, Kind.ATTRIBUTES, b"a")])
    world.ask(Op.GETATTR, node, bytes(16))
    _write(world, node, handle, b"x", 0)
    world.operations.coherence.follow([Change(world.top.watch, Kind.MODIFIED, b"a")])
    told(world, [attributes(node, content=True)])


def test_content_changed_while_the_guest_gives_another_name(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.folder / "a").write_text("0123")
    node = world.look_up(world.top, b"a")
    (world.folder / "a").write_text("4567 and more")
    meanwhile(
        monkeypatch, "link", world,
        Change(world.top.watch, Kind.MODIFIED, b"a"),
        first=lambda: None,
    )  # fmt: skip
    world.ask(Op.LINK, world.top, struct.pack("<Q", node.number) + b"b\0")
    told(world, [attributes(node, content=True)])


def test_writes_of_the_guest_alone_are_no_news(world: World) -> None:
    (world.folder / "a").write_text("0123")
    node = world.look_up(world.top, b"a")
    handle = _opened(world, node)
    for number in range(3):
        _write(world, node, handle, b"x", number)
        world.operations.coherence.follow([Change(world.top.watch, Kind.MODIFIED, b"a")])
    (world.folder / "b").write_text("the host")
    world.operations.coherence.follow([Change(world.top.watch, Kind.CREATED, b"b")])
    told(world, [attributes(world.top, content=True)])
    assert not [body for _, body in world.told if body[:8] == node.number.to_bytes(8, "little")]


def test_another_file_that_the_host_put_there_before_the_guest_moves_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.folder / "a").write_text("x")
    (world.folder / "b").write_text("the host's")
    node, other = world.look_up(world.top, b"a"), world.look_up(world.top, b"b")
    meanwhile(
        monkeypatch, "rename", world,
        *_move(world, b"b", b"a", 1),
        first=lambda: os.replace(world.folder / "b", world.folder / "a"),
    )  # fmt: skip
    world.ask(Op.RENAME, world.top, struct.pack("<Q", world.top.number) + b"a\0c\0")
    world.operations.coherence.follow(_move(world, b"a", b"c", 2))
    told(world, [(Notice.INVAL_ENTRY, protocol.inval_entry(world.top.number, b"c"))])
    assert world.top.names.get(b"c") is not node
    assert world.look_up(world.top, b"c") is other


def test_a_file_is_not_trusted_that_the_host_may_have_changed_in_the_same_tick(world: World) -> None:
    (world.folder / "a").write_text("0123")
    (world.folder / "b").write_text("the host's")
    node = world.look_up(world.top, b"a")
    world.look_up(world.top, b"b")
    (world.folder / "b").write_text("the host again")
    world.operations.coherence.follow([Change(world.top.watch, Kind.MODIFIED, b"b")])
    _write(world, node, _opened(world, node), b"x", 0)
    world.operations.coherence.follow([Change(world.top.watch, Kind.MODIFIED, b"a")])
    told(world, [attributes(node, content=True)])
    repeated = [body for code, body in world.told if code == Notice.REPEAT]
    assert repeated == [protocol.repeat(1, world.top.number, b"b", (0, b""), b"m")], "not the guest's own"


# -- what is told late -----------------------------------------------------------------------------


def _move(world: World, old: bytes, new: bytes, cookie: int) -> list[Change]:
    watch = world.top.watch
    return [Change(watch, Kind.MOVED_FROM, old, cookie), Change(watch, Kind.MOVED_TO, new, cookie)]


def test_a_move_told_after_the_guest_gave_the_old_name_away(world: World) -> None:
    (world.folder / "file").write_text("x")
    (world.folder / "folder").mkdir()
    world.look_up(world.top, b"file")
    node = world.look_up(world.top, b"folder")
    (world.folder / "file").rename(world.folder / "moved")
    world.ask(Op.RENAME, world.top, struct.pack("<Q", world.top.number) + b"folder\0file\0")
    world.operations.coherence.follow(
        [*_move(world, b"file", b"moved", 1), *_move(world, b"folder", b"file", 2)]
    )
    top = world.top.number
    told(
        world,
        [
            (Notice.INVAL_ENTRY, protocol.inval_entry(top, b"moved")),
            (Notice.REPEAT, protocol.repeat(1, top, b"moved", (0, b""), b"f")),
        ],
    )
    assert world.top.names[b"file"] is node
    assert len([body for code, body in world.told if code == Notice.REPEAT]) == 1


def test_a_move_told_after_the_guest_has_found_another_file_by_the_old_name(world: World) -> None:
    """Which would move along where the move is repeated."""
    (world.folder / "a").mkdir()
    world.look_up(world.top, b"a")
    (world.folder / "a").rename(world.folder / "b")
    (world.folder / "a").mkdir()
    node = world.look_up(world.top, b"a")
    (world.folder / "a").chmod(0o700)
    world.operations.coherence.follow(
        [*_move(world, b"a", b"b", 1), Change(world.top.watch, Kind.CREATED | Kind.FOLDER, b"a")]
    )
    top = world.top.number
    told(
        world,
        [
            (Notice.INVAL_ENTRY, protocol.inval_entry(top, b"b")),
            (Notice.REPEAT, protocol.repeat(1, top, b"b", (0, b""), b"d")),
        ],
    )
    assert not [body for code, body in world.told if code == Notice.REPEAT and body.endswith(b"v")]
    assert world.top.names[b"a"] is node


def test_a_removal_told_after_the_guest_made_the_name_anew(world: World) -> None:
    (world.folder / "a").write_text("x")
    (world.folder / "b").write_text("y")
    world.look_up(world.top, b"a")
    node = world.look_up(world.top, b"b")
    (world.folder / "a").unlink()
    world.ask(Op.RENAME, world.top, struct.pack("<Q", world.top.number) + b"b\0a\0")
    world.operations.coherence.follow([Change(world.top.watch, Kind.DELETED, b"a")])
    assert world.top.names[b"a"] is node
    assert world.look_up(world.top, b"a") is node, "still one file, with what the guest keeps of it"


def test_a_name_that_is_still_to_be_repeated_is_not_trusted_when_the_guest_takes_it(world: World) -> None:
    (world.folder / "a").write_text("x")
    (world.folder / "b").write_text("y")
    world.look_up(world.top, b"a")
    world.look_up(world.top, b"b")
    (world.folder / "a").rename(world.folder / "moved")
    world.operations.coherence.follow(_move(world, b"a", b"moved", 1))
    asked: list[tuple[int, bytes]] = []
    world.operations.outbox.begin(lambda code, body: asked.append((code, body)))
    world.until(lambda: Notice.REPEAT in [code for code, _ in asked])  # the guest is at it
    asked.clear()
    world.ask(Op.RENAME, world.top, struct.pack("<Q", world.top.number) + b"b\0a\0")
    top = world.top.number
    first = (Notice.INVAL_ENTRY, protocol.inval_entry(top, b"a", protocol.EXPIRE_ONLY))
    world.until(lambda: first in asked)
    asked.clear()
    world.operations.outbox.repeat_ended(1, 0)
    moved = (Notice.INVAL_ENTRY, protocol.inval_entry(top, b"moved", protocol.EXPIRE_ONLY))
    world.until(lambda: {first, moved} <= set(asked))


# -- answers that a notice overtakes ---------------------------------------------------------------


class _Late:
    """The host changes a name after it has been looked at for the guest, and before the guest is answered."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, change: Callable[[], Change]) -> None:
        real = world.operations.answer

        def answer(request: protocol.Request) -> object:
            body = real(request)
            world.operations.coherence.follow([change()])
            return body

        monkeypatch.setattr(world.operations, "answer", answer)
        self._near, far = socket.socketpair()
        self._near.settimeout(20)
        self._server = Server(world.operations, threads=1)
        self._server.serve(far)

    def ask(self, op: Op, node: Node, body: bytes) -> bytes:
        head = struct.pack("<2I2Q4I", 40 + len(body), op, 2, node.number, 0, 0, 0, 0)
        self._near.sendall(head + body)
        frame = self._near.recv(1 << 20)
        while len(frame) < int.from_bytes(frame[:4], "little"):
            frame += self._near.recv(1 << 20)
        return frame[16:]

    def close(self) -> None:
        self._server.close()
        self._near.close()


@pytest.mark.parametrize("op", [Op.LOOKUP, Op.GETATTR, Op.READDIRPLUS])
def test_an_answer_that_a_notice_has_overtaken_is_not_kept(
    world: World, monkeypatch: pytest.MonkeyPatch, op: Op
) -> None:
    (world.folder / "a").write_text("x")

    def change() -> Change:
        (world.folder / "a").unlink(missing_ok=True)
        return Change(world.top.watch, Kind.DELETED, b"a")

    late = _Late(world, monkeypatch, change)
    body = {
        Op.LOOKUP: b"a\0",
        Op.GETATTR: bytes(16),
        Op.READDIRPLUS: struct.pack("<QQI20x", 0, 0, 4096),
    }[op]
    answer = late.ask(op, world.top, body)
    late.close()
    if op == Op.GETATTR:
        assert protocol.ATTR_OUT.unpack_from(answer)[0] == 0
        return
    found, at = {}, 0
    while at < len(answer):
        entry = protocol.ENTRY_OUT.unpack_from(answer, at)
        at += protocol.ENTRY_OUT.size + protocol.ATTR.size
        size = protocol.DIRENT.unpack_from(answer, at)[2] if op == Op.READDIRPLUS else 0
        at += protocol.DIRENT.size
        found[answer[at : at + size]] = entry[2:4]
        at += (size + 7) & ~7
    assert set(found.values()) == {(0, 0)} and len(found) == (3 if op == Op.READDIRPLUS else 1)


def test_attributes_that_are_set_while_the_host_is_busy_are_not_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest's kernel heeds no notice that it takes before such an answer."""
    (world.folder / "a").write_text("x")
    (world.folder / "b").write_text("y")
    node = world.look_up(world.top, b"a")
    world.look_up(world.top, b"b")

    def change() -> Change:
        (world.folder / "b").write_text("the host")
        return Change(world.top.watch, Kind.MODIFIED, b"b")

    late = _Late(world, monkeypatch, change)
    mode = struct.pack("<I4xQQQQQQIIII4xII4x", protocol.SetAttr.MODE, *[0] * 9, 0o600, 0, 0)
    answer = late.ask(Op.SETATTR, node, mode)
    late.close()
    assert protocol.ATTR_OUT.unpack_from(answer)[0] == 0


# -- repeats of what has changed since -------------------------------------------------------------


def test_a_name_that_is_another_kind_of_file_by_now_is_not_listed_as_it_was(world: World) -> None:
    (world.folder / "other").write_text("x")
    world.look_up(world.top, b"other")
    (world.folder / "a").write_text("x")
    world.operations.coherence.follow([Change(world.top.watch, Kind.CREATED, b"a")])
    world.operations.outbox.begin(lambda code, body: None)
    world.until(lambda: world.operations.outbox.current is not None)
    (world.folder / "a").unlink()
    (world.folder / "a").mkdir()
    world.operations.repeats.pid = 7
    body = struct.pack("<4I", stat.S_IFREG | 0o600, 0, 0, 0) + b"a\0"
    request = protocol.Request(Op.MKNOD, 2, world.top.number, 0, 0, 7, memoryview(body))
    answer = world.operations.answer(request)
    assert answer is not None
    number, _, name_valid, valid, _, _ = protocol.ENTRY_OUT.unpack_from(bytes(answer))
    assert number and (name_valid, valid) == (0, 0)
    listed = world.ask(Op.READDIRPLUS, world.top, struct.pack("<QQI20x", 0, 0, 4096))
    kinds, at = {}, 0
    while at < len(listed):
        at += protocol.ENTRY_OUT.size + protocol.ATTR.size
        _, _, size, kind = protocol.DIRENT.unpack_from(listed, at)
        at += protocol.DIRENT.size
        kinds[listed[at : at + size]] = kind << 12
        at += (size + 7) & ~7
    assert kinds[b"a"] == stat.S_IFDIR


def test_an_owner_does_not_pass_to_the_next_file_with_its_number(world: World) -> None:
    """Of what cannot hold its own, as links."""
    (world.folder / "a").symlink_to("x")
    node = world.look_up(world.top, b"a")
    owners = world.operations.tree.owners
    owners.put(node.identity[:2], Owner(5, 6, 0o777))
    (world.folder / "a").unlink()
    world.operations.coherence.follow([Change(world.top.watch, Kind.DELETED, b"a")])
    assert owners.table() == []


def test_an_owner_is_not_kept_for_a_file_that_was_replaced_this_moment(world: World) -> None:
    (world.folder / "a").write_text("x")
    tree = world.operations.tree
    at = tree.locate(world.look_up(world.top, b"a"))
    (world.folder / "b").symlink_to("x")
    (world.folder / "b").rename(world.folder / "a")
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        tree.owners.write(at.parent, at.name, at.found, Owner(5, 6, 0o600))
    assert tree.owners.table() == []


def test_a_name_that_the_guest_was_told_ahead_is_asked_for_again_once_it_is_told(world: World) -> None:
    """It may keep from before that nothing was called so."""
    (world.folder / "b").write_text("x")
    world.look_up(world.top, b"b")
    (world.folder / "a").write_text("x")
    world.look_up(world.top, b"a")  # as it is told along with another answer
    world.operations.coherence.follow([Change(world.top.watch, Kind.CREATED, b"a")])
    told(
        world,
        [(Notice.INVAL_ENTRY, protocol.inval_entry(world.top.number, b"a", protocol.EXPIRE_ONLY))],
    )
