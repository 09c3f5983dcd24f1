"""Who watches the mount, read from what /proc tells of descriptors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proa_guest import watched
from tests.support.mount_events import Events

MOUNT = os.makedev(0, 0x2A)
# As Linux 6.18 told of instances of its own (fs/notify/fdinfo.c); numbers changed.
INOTIFY = """pos:\t0
flags:\t02004000
mnt_id:\t17
ino:\t21
inotify wd:2 ino:9c0c89 sdev:2a mask:4000fce ignored_mask:0 fhandle-bytes:c fhandle-type:81 f_handle:010000000500000000000000
inotify wd:1 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e0000640d1b6d
"""  # noqa: E501
FANOTIFY = """pos:\t0
flags:\t02004000
mnt_id:\t17
ino:\t21
fanotify flags:10 event-flags:8002
fanotify ino:7f sdev:2a mflags:40 mask:38 ignored_mask:0 fhandle-bytes:c fhandle-type:81 f_handle:000000000700000001000000
"""  # noqa: E501


def process(proc: Path, number: int, handles: dict[str, tuple[str, str]]) -> Path:
    """A folder of /proc; of each descriptor its link, and what is told of it."""
    folder = proc / str(number)
    (folder / "fd").mkdir(parents=True)
    (folder / "fdinfo").mkdir()
    for name, (link, text) in handles.items():
        (folder / "fd" / name).symlink_to(link)
        (folder / "fdinfo" / name).write_text(text)
    return folder


def test_the_nodes_of_all_marks_on_the_mount_are_found(tmp_path: Path) -> None:
    process(tmp_path, 7, {"0": ("/dev/null", "pos:\t0\n"), "3": ("anon_inode:inotify", INOTIFY)})
    process(tmp_path, 8, {"4": ("anon_inode:[fanotify]", FANOTIFY), "5": ("socket:[1]", "")})
    process(tmp_path, 9, {})
    (tmp_path / "self").mkdir()
    assert watched.nodes(MOUNT, proc=str(tmp_path)) == {1 << 32 | 5, 7}
    assert watched.nodes(MOUNT, ["8"], str(tmp_path)) == {1 << 32 | 5}
    assert watched.nodes(os.makedev(8, 1), proc=str(tmp_path)) == set()


def test_a_mark_on_more_than_a_node_may_be_on_any(tmp_path: Path) -> None:
    for line in (
        "fanotify mnt_id:23 mflags:0 mask:3b ignored_mask:40000000",
        "fanotify sdev:2a mflags:0 mask:3b ignored_mask:0",
        "inotify wd:1 ino:5 sdev:2a mask:2 ignored_mask:0",  # a kernel that names no nodes
    ):
        assert not watched.marks(f"pos:\t0\n{line}\n", os.minor(MOUNT), set()), line
    process(tmp_path, 8, {"4": ("anon_inode:[fanotify]", "fanotify mnt_id:23 mflags:0 mask:3b\n")})
    assert watched.nodes(MOUNT, proc=str(tmp_path)) is None


def test_more_marks_than_an_answer_holds_may_be_on_any(tmp_path: Path) -> None:
    line = (
        "inotify wd:1 ino:5 sdev:2a mask:2 fhandle-bytes:c fhandle-type:81 f_handle:00000000{:02x}{:02x}0000"
    )
    lines = [line.format(number & 255, number >> 8) for number in range(watched.MOST + 1)]
    process(tmp_path, 7, {"3": ("anon_inode:inotify", "\n".join(lines[:-1]))})
    assert len(watched.nodes(MOUNT, proc=str(tmp_path)) or ()) == watched.MOST
    process(tmp_path, 8, {"3": ("anon_inode:inotify", lines[-1])})
    assert watched.nodes(MOUNT, proc=str(tmp_path)) is None


def test_where_a_process_has_ended_those_that_came_meanwhile_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have left its descriptor to a child that was not there yet when all were listed."""
    gone = process(tmp_path, 7, {"3": ("anon_inode:inotify", INOTIFY)})
    listed = os.listdir

    def listdir(folder: str) -> list[str]:
        if folder == f"{gone}/fd" and gone.exists():
            gone.rename(tmp_path / "8")
        return listed(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    assert watched.nodes(MOUNT, proc=str(tmp_path)) == {1 << 32 | 5}


def test_a_process_that_is_there_is_found(tmp_path: Path) -> None:
    """By this kernel's own words: its other file systems name nodes otherwise than a mount of ours."""
    others = [path.name for path in Path("/proc").glob("[0-9]*") if path.name != str(os.getpid())]
    device = tmp_path.stat().st_dev
    assert watched.nodes(device, others) == set()
    events = Events(tmp_path)
    try:
        assert watched.nodes(device, others) is None
        assert watched.nodes(os.makedev(0, 0xFFFFF), others) == set()
    finally:
        events.close()
