from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("inotify is Linux'", allow_module_level=True)

from proa.system.inotify import Inotify, is_elsewhere, mount_points, parse
from proa.system.watching import Change, Kind

# proc(5): number, parent, device, root, place, options, optional fields, "-", kind, source, options.
TABLE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:38 / /home/me/far rw shared:2 master:3 - nfs4 server:/far rw,vers=4.2
41 22 0:39 / /home/me/a\\040phone rw - fuse.sshfs phone:/ rw
42 22 0:40 / /home/me/windows rw - fuseblk /dev/sdb1 rw
43 22 0:41 / /home/me/odd-nfs rw - tmpfs - rw
44 22 8:17 / /media/me/CAMERA rw - vfat /dev/sdb1 rw
"""


@pytest.mark.parametrize(
    ("device", "elsewhere"),
    (
        ((8, 1), False),
        ((0, 38), True),
        ((0, 39), True),
        ((0, 40), False),
        ((0, 41), False),
        ((0, 99), False),
        ((8, 17), True),
    ),
)
def test_where_not_all_is_told(device: tuple[int, int], elsewhere: bool) -> None:
    assert is_elsewhere(TABLE, os.makedev(*device)) is elsewhere


def test_where_something_is_mounted() -> None:
    points = mount_points(TABLE)
    assert (b"/home/me/a phone", "41") in points and len(points) == 6
    assert points ^ mount_points(TABLE.replace("44 22", "51 22")) == {
        (b"/media/me/CAMERA", "44"),
        (b"/media/me/CAMERA", "51"),
    }


def test_events_as_the_kernel_writes_them() -> None:
    data = (
        struct.pack("iIII", 3, 0x100, 0, 16)
        + b"a name".ljust(16, b"\0")
        + struct.pack("iIII", -1, 0x4000, 0, 0)
    )
    assert parse(data) == [Change(3, Kind.CREATED, b"a name"), Change(-1, Kind.OVERFLOW)]


def test_the_end_of_a_watched_disk_is_no_mount_without_a_path() -> None:
    data = struct.pack("iIII", 3, 0x2000, 0, 0) + struct.pack("iIII", 3, 0x8000, 0, 0)
    assert parse(data) == [Change(3, Kind(0)), Change(3, Kind.ENDED)]


def test_a_folder_is_watched_wherever_it_is(tmp_path: Path) -> None:
    """By its descriptor: it is another's folder that has its name by now."""
    (tmp_path / "a").mkdir()
    handle = os.open(tmp_path / "a", os.O_PATH)
    watcher = Inotify()
    number = watcher.watch(handle, b".", folder=True)
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/not-watched").touch()
    (tmp_path / "b/name").write_text("x")
    (tmp_path / "b/name").rename(tmp_path / "b/other")
    told = watcher.read(5)
    names = [(change.name, change.kind) for change in told if change.name]
    assert names == [
        (b"name", Kind.CREATED),
        (b"name", Kind.MODIFIED),
        (b"name", Kind.CLOSED),
        (b"name", Kind.MOVED_FROM),
        (b"other", Kind.MOVED_TO),
    ]
    assert len({change.cookie for change in told if change.cookie}) == 1
    watcher.unwatch(number)
    assert [change.kind for change in watcher.read(5)] == [Kind.ENDED]
    assert watcher.read(0) == []
    watcher.close()
    os.close(handle)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    handle = os.open(tmp_path, os.O_PATH)
    watcher = Inotify()
    with pytest.raises(NotADirectoryError):
        watcher.watch(handle, b"link", folder=True)
    watcher.close()
    os.close(handle)
