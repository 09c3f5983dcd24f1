"""What is told by paths only, scripted: late, several changes as one, and the guest's own among them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("the share server's core is not for Windows yet", allow_module_level=True)

from proa.shares import protocol
from proa.shares.nodes import Node
from proa.shares.protocol import Notice, Op
from proa.system.watching import Change, Kind
from tests.support.share_worlds import Scripted, World

MOVED = Kind.MOVED_FROM | Kind.MOVED_TO


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, Scripted(by_path=True))


def tell(world: World, *changes: tuple[str, Kind]) -> None:
    told = [Change(0, kind | Kind.PATH, os.fsencode(world.folder / path)) for path, kind in changes]
    world.operations.coherence.follow(told)


def repeats(world: World) -> list[bytes]:
    world.begin()
    world.until(world.operations.outbox.quiet)
    return [body for code, body in world.told if code == Notice.REPEAT]


def repeat(number: int, folder: Node, name: bytes, steps: bytes) -> bytes:
    return protocol.repeat(number, folder.number, name, (0, b""), steps)


def test_what_the_guest_did_is_told_to_nobody(world: World) -> None:
    world.ask(Op.MKDIR, world.top, b"\xed\x01\0\0\0\0\0\0a\0")
    tell(world, ("a", Kind.CREATED | Kind.FOLDER))
    world.ask(Op.RMDIR, world.top, b"a\0")
    tell(world, ("a", Kind.CREATED | Kind.DELETED | Kind.FOLDER))
    assert repeats(world) == []


def test_a_flag_that_is_said_again_is_no_second_change(world: World) -> None:
    (world.folder / "a").write_text("x")
    tell(world, ("a", Kind.CREATED))
    tell(world, ("a", Kind.CREATED))
    # It is not empty, so it has been written to: what is told of that may come when nothing is new any more.
    assert repeats(world) == [repeat(1, world.top, b"a", b"fmw")]
    (world.folder / "a").unlink()
    tell(world, ("a", Kind.CREATED | Kind.DELETED))
    tell(world, ("a", Kind.CREATED | Kind.DELETED))
    assert repeats(world)[1:] == [repeat(2, world.top, b"a", b"u")]


def test_what_has_changed_by_the_time_it_is_looked_at_is_told_then(world: World) -> None:
    """A path is told of once for several changes, or so late that another has been made since."""
    (world.folder / "empty").touch()
    tell(world, ("empty", Kind.CREATED))
    assert repeats(world) == [repeat(1, world.top, b"empty", b"fw")]
    (world.folder / "a").write_text("x")
    world.look_up(world.top, b"a")
    tell(world, ("a", Kind.CREATED))
    assert repeats(world)[1:] == [repeat(2, world.top, b"a", b"fmw")]
    (world.folder / "a").write_text("xx")
    os.utime(world.folder / "a", (1, 1))
    tell(world, ("a", Kind.MODIFIED))
    assert repeats(world)[2:] == [repeat(3, world.top, b"a", b"amw")]
    tell(world, ("a", Kind.ATTRIBUTES))
    assert repeats(world)[3:] == [], "that has been told"


def test_what_is_made_again_after_it_went_is_told_again(world: World) -> None:
    for number in (1, 3):
        (world.folder / "a").mkdir()
        tell(world, ("a", Kind.CREATED | Kind.DELETED | Kind.FOLDER))
        assert repeats(world)[number - 1 :] == [repeat(number, world.top, b"a", b"d")]
        (world.folder / "a").rmdir()
        tell(world, ("a", Kind.CREATED | Kind.DELETED | Kind.FOLDER))
        assert repeats(world)[number:] == [repeat(number + 1, world.top, b"a", b"r")]


def test_what_the_guest_found_before_it_was_told_is_told_nevertheless(world: World) -> None:
    """Those who watch its folder did not find it, and the listing that is kept has it not."""
    (world.folder / "a").write_text("x")
    world.look_up(world.top, b"a")
    tell(world, ("a", Kind.CREATED | Kind.MODIFIED))
    assert repeats(world) == [repeat(1, world.top, b"a", b"fmw")]
    assert (Notice.INVAL_INODE, protocol.inval_inode(world.top.number, content=True)) in world.told


def test_a_move_is_one_by_whichever_half_is_told_first(world: World) -> None:
    (world.folder / "a").write_text("x")
    world.look_up(world.top, b"a")
    (world.folder / "a").rename(world.folder / "b")
    tell(world, ("b", MOVED), ("a", MOVED), ("b", MOVED))
    top = world.top.number
    assert repeats(world) == [protocol.repeat(1, top, b"a", (top, b"b"), b"v")]


def test_a_change_is_found_where_its_folder_went(world: World) -> None:
    """Told by the path that it had: the guest has moved the folder since."""
    (world.folder / "old").mkdir()
    (world.folder / "old/a").write_text("one")
    folder = world.look_up(world.top, b"old")
    node = world.look_up(folder, b"a")
    (world.folder / "old/a").write_text("two two")
    world.ask(Op.RENAME, world.top, world.top.number.to_bytes(8, "little") + b"old\0new\0")
    tell(world, ("old/a", Kind.MODIFIED))
    assert repeats(world) == [repeat(1, folder, b"a", b"mw")]
    assert (Notice.INVAL_INODE, protocol.inval_inode(node.number, content=True)) in world.told


def test_what_is_in_a_folder_that_went_is_told_before_the_folder(world: World) -> None:
    (world.folder / "a/b").mkdir(parents=True)
    folder = world.look_up(world.top, b"a")
    world.look_up(folder, b"b")
    (world.folder / "a/b").rmdir()
    (world.folder / "a").rmdir()
    tell(world, ("a", Kind.DELETED | Kind.FOLDER), ("a/b", Kind.DELETED | Kind.FOLDER))
    assert repeats(world) == [repeat(1, folder, b"b", b"r"), repeat(2, world.top, b"a", b"r")]


def test_that_a_folder_went_is_told_though_it_was_found_on_the_way_to_what_was_in_it(world: World) -> None:
    (world.folder / "x/c/a").mkdir(parents=True)
    (world.folder / "y").mkdir()
    x, _ = world.look_up(world.top, b"x"), world.look_up(world.top, b"y")
    folder = world.look_up(x, b"c")
    world.look_up(folder, b"a")
    world.operations.tree.nodes.let_go(folder)
    (world.folder / "x/c").rename(world.folder / "y/d")
    moved = MOVED | Kind.FOLDER
    tell(world, ("x/c", moved), ("x/c/a", moved), ("y/d", moved))
    assert repeat(3, x, b"c", b"r") in repeats(world)
    assert (Notice.INVAL_INODE, protocol.inval_inode(x.number, content=True)) in world.told
    assert (Notice.INVAL_ENTRY, protocol.inval_entry(x.number, b"c")) in world.told


def test_names_are_found_in_any_case_where_the_disk_takes_them_so(tmp_path: Path) -> None:
    watcher = Scripted(by_path=True)
    watcher.any_case = True
    world = World(tmp_path, watcher)
    (tmp_path / "Größe").write_text("x")
    world.look_up(world.top, "Größe".encode())
    (tmp_path / "Größe").chmod(0o600)
    tell(world, ("GRO\u0308SSE", Kind.ATTRIBUTES))
    assert repeats(world) == [repeat(1, world.top, "Größe".encode(), b"a")]
    with pytest.raises(FileNotFoundError):  # in which case it may come to be is not known
        world.valid(world.top, b"none")


def test_a_folder_that_the_guest_finds_elsewhere_is_not_trusted_any_more(world: World) -> None:
    """What happened in it since was told by a path that led nowhere."""
    (world.folder / "a/inner").mkdir(parents=True)
    folder = world.look_up(world.top, b"a")
    inner = world.look_up(folder, b"inner")
    (world.folder / "a").rename(world.folder / "b")
    (world.folder / "a").mkdir()
    world.look_up(world.top, b"a")
    (world.folder / "b/inner/new").write_text("x")
    tell(world, ("b/inner/new", Kind.CREATED), ("a", MOVED | Kind.FOLDER))
    world.begin()
    world.until(world.operations.outbox.quiet)
    world.told.clear()
    assert world.look_up(world.top, b"b") is folder
    world.until_told(
        (Notice.INVAL_INODE, protocol.inval_inode(folder.number, content=True)),
        (Notice.INVAL_INODE, protocol.inval_inode(inner.number, content=True)),
    )
