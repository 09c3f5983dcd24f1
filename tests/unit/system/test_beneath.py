"""Shared files beneath open folders: the same is held to on every system."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proa.system import beneath
from proa.system.beneath import Descriptor

NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL
BYTES = b"\xff\xfe" if sys.platform == "linux" else b"\xc3\xa4"  # what names may be made of


@pytest.fixture
def root(tmp_path: Path) -> Descriptor:
    return beneath.open_root(beneath.shared_path(str(tmp_path.resolve())))


def fails(call: Callable[..., object], *given: object, **named: object) -> str:
    """The name of the error that it ends with, or nothing."""
    try:
        call(*given, **named)
    except OSError as error:
        return errno.errorcode[error.errno or 0].removeprefix("WSA")
    return ""


def made(root: Descriptor, name: bytes, content: bytes = b"") -> Descriptor:
    file = beneath.open_file(root, name, NEW)
    if content:
        assert beneath.pwrite(file.number, content, 0) == len(content)
    return file


def content(root: Descriptor, name: bytes) -> bytes:
    file = beneath.open_file(root, name, os.O_RDONLY)  # open for as long as it is held
    return beneath.pread(file.number, 1000, 0)


def test_a_path_comes_back_as_it_was(tmp_path: Path) -> None:
    path = str(tmp_path.resolve())
    shared = beneath.shared_path(path)
    assert shared.startswith(b"/") and b"\\" not in shared
    assert beneath.host_path(shared) == path


def test_what_is_not_there(root: Descriptor) -> None:
    assert fails(beneath.status, root, b"none") == "ENOENT"
    assert fails(beneath.open_file, root, b"none", os.O_RDONLY) == "ENOENT"
    assert fails(beneath.open_folder, root, b"none") == "ENOENT"
    assert fails(beneath.remove_file, root, b"none") == "ENOENT"
    assert fails(beneath.rename, root, b"none", root, b"other") == "ENOENT"
    assert fails(beneath.open_root, b"/c/none/of/these") == "ENOENT"


def test_a_file_is_made_read_and_written(root: Descriptor, tmp_path: Path) -> None:
    file = made(root, b"file", b"one two")
    assert (tmp_path / "file").read_bytes() == b"one two"
    assert beneath.pread(file.number, 3, 4) == b"two"
    assert beneath.pread(file.number, 3, 100) == b""
    assert beneath.pwrite(file.number, memoryview(b"ONE"), 0) == 3
    assert beneath.append(file, memoryview(b" three")) == 6
    assert beneath.fstat(file.number).st_size == 13
    beneath.truncate(file.number, 5)
    beneath.truncate(file.number, 7)
    assert content(root, b"file") == b"ONE t\0\0"
    beneath.sync(file, data_only=True)
    beneath.sync(beneath.open_file(root, b"file", os.O_RDONLY), data_only=False)
    beneath.sync(beneath.open_file(root, b".", os.O_RDONLY), data_only=False)
    assert fails(beneath.open_file, root, b"file", NEW) == "EEXIST"
    beneath.open_file(root, b"file", os.O_WRONLY | os.O_TRUNC)
    assert content(root, b"file") == b""
    assert fails(beneath.pread, file.number, 1, -1) == "EINVAL"


def test_a_file_for_reading_cannot_be_written(root: Descriptor) -> None:
    made(root, b"file", b"x")
    reader = beneath.open_file(root, b"file", os.O_RDONLY)
    assert fails(beneath.pwrite, reader.number, b"y", 0) in ("EBADF", "EACCES")
    assert content(root, b"file") == b"x"


def test_status_is_the_same_however_it_is_looked_at(root: Descriptor, tmp_path: Path) -> None:
    file = made(root, b"file", b"x" * 5000)
    found = beneath.status(root, b"file")
    assert found == beneath.fstat(file.number)
    path = beneath.shared_path(str(tmp_path.resolve() / "file"))
    assert beneath.status_at(path)[:3] == beneath.status_at(path, follow=False)[:3] == found[:3]
    assert stat.S_ISREG(found.st_mode) and found.st_size == 5000 and found.st_nlink == 1
    assert found.st_blocks * 512 >= 5000 or sys.platform == "darwin"
    folder = beneath.status(root, b".")
    assert stat.S_ISDIR(folder.st_mode) and folder.st_dev == found.st_dev
    assert folder.st_ino == beneath.fstat(root.number).st_ino != found.st_ino


def test_a_change_is_seen_in_the_times(root: Descriptor) -> None:
    """That of any change is not the one of when it was made."""
    made(root, b"file", b"x")
    first = beneath.status(root, b"file")
    beneath.set_times(root, b"file", (1_000_000_000_123_456_700, 1_500_000_000_987_654_300))
    second = beneath.status(root, b"file")
    assert second.st_atime_ns == 1_000_000_000_123_456_700
    assert second.st_mtime_ns == 1_500_000_000_987_654_300
    assert second.st_ctime_ns >= first.st_ctime_ns > second.st_mtime_ns
    beneath.set_times_of(beneath.open_file(root, b"file", os.O_RDWR), (1_600_000_000_000_000_000,) * 2)
    assert beneath.status(root, b"file").st_mtime_ns == 1_600_000_000_000_000_000


def test_folders(root: Descriptor) -> None:
    beneath.make_folder(root, b"outer", 0o755)
    outer = beneath.open_folder(root, b"outer")
    beneath.make_folder(outer, b"inner", 0o755)
    made(outer, b"file")
    assert sorted(beneath.names_in(outer)) == [b"file", b"inner"]
    assert beneath.names_in(beneath.open_folder(outer, b"inner")) == []
    assert fails(beneath.make_folder, root, b"outer", 0o755) == "EEXIST"
    assert fails(beneath.open_folder, outer, b"file") == "ENOTDIR"
    assert fails(beneath.open_file, root, b"outer", os.O_RDWR) == "EISDIR"
    assert fails(beneath.remove_folder, root, b"outer") == "ENOTEMPTY"
    assert fails(beneath.remove_file, root, b"outer") in ("EISDIR", "EPERM")
    assert fails(beneath.remove_folder, outer, b"file") == "ENOTDIR"
    beneath.remove_folder(outer, b"inner")
    beneath.remove_file(outer, b"file")
    beneath.remove_folder(root, b"outer")
    assert beneath.names_in(root) == []


def test_many_names(root: Descriptor) -> None:
    wanted = {b"a rather long name of a file, number %d" % number for number in range(1500)}
    for name in wanted:
        made(root, name)
    found = beneath.names_in(root)
    assert len(found) == len(wanted) and set(found) == wanted


def test_names_of_every_kind(root: Descriptor) -> None:
    """Also those that a system has a use of its own for."""
    wanted = (
        b"a:b", b'<>"|?*', b"back\\slash", b"line\nend", b"dot.", b"dots...", b"space ", b" ",
        b"nul", b"con.txt", b"x" * 255, "ä€𝄞".encode(), BYTES,
    )  # fmt: skip
    for name in wanted:
        made(root, name, name)
    assert sorted(beneath.names_in(root)) == sorted(wanted)
    for name in wanted:
        assert content(root, name) == name
        assert stat.S_ISREG(beneath.status(root, name).st_mode)
    assert fails(made, root, b"x" * 256) == "ENAMETOOLONG"


def test_renaming(root: Descriptor) -> None:
    beneath.make_folder(root, b"folder", 0o755)
    folder = beneath.open_folder(root, b"folder")
    for name in (b"one", b"two", b"three"):
        made(root, name, name)
    number = beneath.status(root, b"one").st_ino
    beneath.rename(root, b"one", folder, b"moved")
    assert beneath.status(folder, b"moved").st_ino == number
    beneath.rename(root, b"two", folder, b"moved")
    assert content(folder, b"moved") == b"two"
    if sys.platform != "darwin":
        assert fails(beneath.rename, root, b"three", folder, b"moved", beneath.RENAME_NOREPLACE) == "EEXIST"
        beneath.rename(root, b"three", folder, b"new", beneath.RENAME_NOREPLACE)
        assert sorted(beneath.names_in(folder)) == [b"moved", b"new"]
    assert beneath.names_in(root) == [b"folder"]


def test_an_open_file_is_replaced(root: Descriptor) -> None:
    old = made(root, b"file", b"old")
    made(root, b"new", b"new")
    beneath.rename(root, b"new", root, b"file")
    assert content(root, b"file") == b"new"
    assert beneath.pread(old.number, 10, 0) == b"old"


def test_renaming_folders(root: Descriptor) -> None:
    for name in (b"one", b"empty", b"full"):
        beneath.make_folder(root, name, 0o755)
    made(beneath.open_folder(root, b"full"), b"file")
    beneath.rename(root, b"one", root, b"empty")
    assert sorted(beneath.names_in(root)) == [b"empty", b"full"]
    assert fails(beneath.rename, root, b"empty", root, b"full") in ("ENOTEMPTY", "EEXIST")
    beneath.rename(root, b"full", root, b"empty")
    assert beneath.names_in(root) == [b"empty"]
    assert beneath.names_in(beneath.open_folder(root, b"empty")) == [b"file"]


def test_a_file_that_is_removed_while_it_is_open(root: Descriptor) -> None:
    file = made(root, b"file", b"old")
    beneath.remove_file(root, b"file")
    assert fails(beneath.status, root, b"file") == "ENOENT"
    made(root, b"file", b"new")
    assert beneath.pwrite(file.number, b"O", 0) == 1
    assert beneath.pread(file.number, 10, 0) == b"Old"
    assert beneath.fstat(file.number).st_size == 3
    assert content(root, b"file") == b"new"
    del file
    assert beneath.names_in(root) == [b"file"]


def test_a_second_name(root: Descriptor) -> None:
    made(root, b"one", b"x")
    beneath.add_name(root, b"one", root, b"two")
    one, two = (beneath.status(root, name) for name in (b"one", b"two"))
    assert one.st_ino == two.st_ino and one.st_nlink == two.st_nlink == 2
    assert fails(beneath.add_name, root, b"one", root, b"two") == "EEXIST"
    beneath.remove_file(root, b"one")
    assert content(root, b"two") == b"x"
    assert beneath.status(root, b"two").st_nlink == 1


def test_links_lead_nowhere(root: Descriptor, tmp_path: Path) -> None:
    """Where the file system keeps none (FAT, Wine's), none is left behind."""
    target = b"../" + BYTES + b"/x"
    error = fails(beneath.make_link, root, b"link", target)
    assert error in ("", "EPERM")
    if error:
        assert beneath.names_in(root) == []
        return
    assert beneath.link_target(root, b"link") == target
    found = beneath.status(root, b"link")
    assert stat.S_ISLNK(found.st_mode) and found.st_size == len(target)
    (tmp_path / "folder").mkdir()
    beneath.make_link(root, b"in", b"folder")
    assert fails(beneath.open_folder, root, b"in") in ("ENOTDIR", "ELOOP")
    assert fails(beneath.open_file, root, b"in", os.O_RDONLY) in ("ELOOP", "EMLINK")
    beneath.rename(root, b"link", root, b"moved")
    beneath.remove_file(root, b"moved")
    beneath.remove_file(root, b"in")
    assert beneath.names_in(root) == [b"folder"]


def test_other_kinds_of_files(root: Descriptor) -> None:
    beneath.make_node(root, b"file", stat.S_IFREG | 0o644)
    assert stat.S_ISREG(beneath.status(root, b"file").st_mode)
    if not fails(beneath.make_node, root, b"pipe", stat.S_IFIFO | 0o644):
        assert stat.S_ISFIFO(beneath.status(root, b"pipe").st_mode)
    assert fails(beneath.make_node, root, b"file", stat.S_IFREG | 0o644) == "EEXIST"


def test_a_file_for_reading_only(root: Descriptor) -> None:
    made(root, b"file")
    bits = beneath.status(root, b"file").st_mode & 0o777
    assert bits == (beneath.BITS or bits)
    beneath.set_mode(root, b"file", 0o444)
    assert not beneath.status(root, b"file").st_mode & 0o222
    beneath.set_mode(root, b"file", 0o644)
    assert beneath.status(root, b"file").st_mode & 0o200
    beneath.set_mode(root, b"file", 0o444)
    beneath.remove_file(root, b"file")


def test_a_file_without_holes(root: Descriptor) -> None:
    file = made(root, b"file", b"x" * 100)
    assert beneath.seek(file, 10, hole=False) == 10
    assert beneath.seek(file, 10, hole=True) == 100
    assert fails(beneath.seek, file, 100, hole=False) == "ENXIO"


def test_room_on_the_disk(root: Descriptor) -> None:
    found = beneath.space(root.number)
    assert found.f_blocks >= found.f_bfree > 0
    assert found.f_frsize in (1 << shift for shift in range(9, 21))
    file = made(root, b"file")
    if not fails(beneath.allocate, file, 0, 100, 5000):
        assert beneath.fstat(file.number).st_size == 5100
