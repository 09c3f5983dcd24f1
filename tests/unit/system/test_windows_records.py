"""What Windows fills buffers with, as Microsoft's documentation has it: made here by hand."""

from __future__ import annotations

import errno
import struct

import pytest

from proa.system import windows_records
from proa.system.watching import Kind
from proa.system.windows_records import LX_SYMLINK, MOUNT_POINT, SYMLINK, Reparse


def records(*given: tuple[int, str]) -> bytes:
    """Each with a number and a name, padded to four bytes; the last one has no next one."""
    found = b""
    for index, (number, name) in enumerate(given):
        data = name.encode("utf-16-le", "surrogatepass")
        size = (12 + len(data) + 3) & ~3
        step = size if index < len(given) - 1 else 0
        found += (struct.pack("<3I", step, number, len(data)) + data).ljust(size, b"\0")
    return found


def test_names_of_a_folder() -> None:
    data = records(
        (0, "."), (0, ".."), (0, "a"), (7, "long name.txt"), (0, "\udcff"), (0, ".proa-removed-12")
    )
    assert windows_records.names(data) == ["a", "long name.txt", "\udcff"]


def test_changes_in_a_folder() -> None:
    data = records(
        (1, "new"),
        (3, "a\\b.txt"),
        (4, "old name"),
        (5, "new\uf03aname"),
        (2, "gone"),
        (2, "a\\.proa-removed-12"),
        (9, "x"),
    )
    assert windows_records.changes(data) == [
        (Kind.CREATED, b"new"),
        (Kind.MODIFIED, b"a/b.txt"),
        (Kind.MOVED_FROM, b"old name"),
        (Kind.MOVED_TO, b"new:name"),
        (Kind.DELETED, b"gone"),
    ]


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 11, struct.pack("<3I", 0, 1, 4) + b"a\0", struct.pack("<3I", 64, 1, 0)]
)
def test_what_ends_too_early(data: bytes) -> None:
    with pytest.raises(ValueError, match="too early"):
        windows_records.changes(data)


def symlink(tag: int, target: str, shown: str = "shown") -> bytes:
    first, second = shown.encode("utf-16-le"), target.encode("utf-16-le")
    lengths = struct.pack("<4H", len(first), len(second), 0, len(first))
    data = lengths + (struct.pack("<I", 1) if tag == SYMLINK else b"") + first + second
    return struct.pack("<IHH", tag, len(data), 0) + data


@pytest.mark.parametrize(
    ("buffer", "target"),
    [
        (symlink(SYMLINK, "..\\lib\\a b"), b"../lib/a b"),
        (symlink(SYMLINK, "\\??\\C:\\Users\\me"), b"/c/Users/me"),
        (symlink(MOUNT_POINT, "\\??\\D:\\"), b"/d/"),
        (windows_records.link(b"/any/\xff thing?").buffer(), b"/any/\xff thing?"),
        (struct.pack("<IHHI", LX_SYMLINK, 8, 0, 2) + b"../x", b"../x"),  # as WSL writes it
    ],
)
def test_where_links_lead(buffer: bytes, target: bytes) -> None:
    reparse = Reparse.read(buffer)
    assert reparse.target() == target
    assert reparse.stands_for_another
    assert Reparse.read(reparse.buffer()) == reparse


def test_what_is_no_link() -> None:
    reparse = Reparse.read(struct.pack("<IHH", 0x9000001A, 0, 0))  # a file that is kept in a cloud
    assert not reparse.stands_for_another
    with pytest.raises(OSError) as refused:
        reparse.target()
    assert refused.value.errno == errno.EINVAL
    with pytest.raises(ValueError, match="too early"):
        Reparse.read(b"\0\0")
