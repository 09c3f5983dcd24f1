"""Files whose content is told as they are opened, and that stay open: read again without the host, and never
as they were before a change."""

from __future__ import annotations

import struct

import pytest

from proa_guest import anticipated
from proa_guest.anticipated import (
    CONTENT,
    ENDS_A_LOCK,
    FORGET,
    GETATTR,
    INVAL_INODE,
    LINK,
    OPEN,
    RELEASE,
    RENAME,
    RESENT,
    SETATTR,
    UNLINK,
    Anticipated,
)
from proa_guest.fuse import CLOSED_LATE, HEAD, RELEASED, REQUEST
from tests.support.relayed import (
    ATTRIBUTES_OF_FILE,
    FILE,
    OTHER,
    closing,
    notice,
    opening,
    pushed,
    read,
    request,
)

# -- contents --------------------------------------------------------------------------------------


@pytest.fixture
def opened() -> Anticipated:
    """It knows what is in a file that was just opened."""
    found = Anticipated()
    found.take(pushed(folder=FILE, attributes=b"content", what=CONTENT))
    return found


def test_a_content_is_read_as_from_the_file(opened: Anticipated) -> None:
    def got(offset: int, size: int) -> bytes | None:
        answer = opened.answer(read(offset, size))
        return None if answer is None else answer[HEAD.size :]

    assert [got(0, 4096), got(0, 3), got(3, 100), got(7, 10), got(100, 10)] == [
        b"content", b"con", b"tent", b"", b"",
    ]  # fmt: skip
    assert opened.answer(read(0, 10, OTHER)) is None
    assert opened.answer(request(GETATTR, FILE)) is None, "its attributes are another matter"
    opened.answer(closing(5))
    assert got(0, 10) is None


@pytest.mark.parametrize(
    ("op", "node", "body"),
    (
        (anticipated.WRITE, FILE, bytes(40) + b"x"),
        (OPEN, FILE, struct.pack("<II", 0o1001, 0)),
        (SETATTR, FILE, bytes(88)),
        (anticipated.FALLOCATE, FILE, bytes(32)),
        (anticipated.COPY_FILE_RANGE, OTHER, struct.pack("<7Q", 5, 0, FILE, 6, 0, 10, 0)),
    ),
)
def test_no_content_is_older_than_what_the_guest_wrote(
    opened: Anticipated, op: int, node: int, body: bytes
) -> None:
    assert opened.answer(request(op, node, body, unique=30)) is None
    assert opened.answer(read(0, 10)) is None
    opened.take(pushed(folder=FILE, attributes=b"content", what=CONTENT))
    assert opened.answer(read(0, 10)) is None, "it may have been read before"
    opened.replied(30)
    opened.take(pushed(folder=FILE, attributes=b"content", what=CONTENT))
    assert opened.answer(read(0, 10)) is not None


def test_nor_than_what_the_host_did(opened: Anticipated) -> None:
    opened.not_true(notice(INVAL_INODE, struct.pack("<Qqq", FILE, 0, 0)))
    assert opened.answer(read(0, 10)) is None
    opened.take(pushed(folder=FILE, attributes=b"content", what=CONTENT))
    opened.clear()
    assert opened.answer(read(0, 10)) is None


def test_contents_are_bounded(opened: Anticipated) -> None:
    for number in range(anticipated.MOST_BYTES // 65536 + 1):
        opened.take(pushed(folder=100 + number, attributes=bytes(65536), what=CONTENT))
    assert opened.answer(read(0, 10)) is None
    assert opened.answer(read(0, 10, 100)) is None
    assert opened.answer(read(0, 10, 101)) is not None


@pytest.mark.parametrize(
    ("op", "body"),
    (
        (UNLINK, b"any\0"),
        (LINK, struct.pack("<Q", FILE) + b"second\0"),
        (RENAME, struct.pack("<Q", OTHER) + b"any\0other\0"),
    ),
)
def test_a_name_that_comes_or_goes_changes_how_a_file_looks(op: int, body: bytes) -> None:
    here = Anticipated()
    here.take(pushed(folder=FILE, attributes=ATTRIBUTES_OF_FILE))
    assert here.answer(request(op, OTHER, body, unique=30)) is None
    assert here.answer(request(GETATTR, FILE)) is None, "which one it is, the request does not tell"
    here.take(pushed(folder=FILE, attributes=ATTRIBUTES_OF_FILE))
    assert here.answer(request(GETATTR, FILE)) is None, "it may have been looked at before"
    here.replied(30)
    here.take(pushed(folder=FILE, attributes=ATTRIBUTES_OF_FILE))
    assert here.answer(request(GETATTR, FILE)) is not None


# -- files that stay open --------------------------------------------------------------------------


@pytest.fixture
def kept() -> Anticipated:
    """It has a file open on the host that the guest has closed."""
    found = Anticipated(lambda: 100.0)
    found.take(pushed(folder=FILE, end=77, what=CONTENT))
    assert found.answer(closing(77, unique=8)) == HEAD.pack(16, 0, 8)
    return found


def closed(here: Anticipated) -> list[int]:
    """Handles that the host is told to close."""
    report = here.closed()
    if not report:
        return []
    size, op, *_ = REQUEST.unpack_from(report)
    assert (size, op) == (len(report), RELEASED)
    return [handle for (handle,) in struct.iter_unpack("<Q", report[REQUEST.size :])]


def test_a_file_is_opened_again_without_the_host(kept: Anticipated) -> None:
    answer = kept.answer(opening(unique=12))
    assert answer == HEAD.pack(32, 0, 12) + struct.pack("<QII", 77, 2, 0)
    assert kept.answer(opening()) is None, "it has it once"
    assert kept.answer(closing(77)) is not None
    assert kept.answer(opening()) is not None
    assert closed(kept) == []


@pytest.mark.parametrize("flags", (0o1, 0o2, 0o1000, 0o40000))
def test_but_not_to_write(kept: Anticipated, flags: int) -> None:
    assert kept.answer(opening(flags)) is None


def test_nor_for_who_repeats_or_what_is_sent_again(kept: Anticipated) -> None:
    assert kept.answer(opening(pid=5), never_for=5) is None
    assert kept.answer(opening(unique=2 | RESENT)) is None


def test_handles_that_the_host_did_not_name_are_its_own(kept: Anticipated) -> None:
    assert kept.answer(closing(78)) is None
    assert closed(kept) == [77], "and it is asked anew"


@pytest.mark.parametrize("open_again", (False, True))
def test_it_is_closed_once_the_host_says_that_something_changed(kept: Anticipated, open_again: bool) -> None:
    if open_again:
        assert kept.answer(opening()) is not None
    kept.not_true(notice(INVAL_INODE, struct.pack("<Qqq", FILE, 0, 0)))
    assert closed(kept) == ([] if open_again else [77])
    if open_again:
        assert kept.answer(closing(77)) is None
    assert kept.answer(opening()) is None


def test_it_is_closed_once_the_guest_knows_it_no_more(kept: Anticipated) -> None:
    kept.answer(request(FORGET, FILE, bytes(8)))
    assert closed(kept) == [77] and closed(kept) == []


def test_it_is_closed_for_another_stream(kept: Anticipated) -> None:
    kept.clear()
    assert kept.answer(opening()) is None
    assert closed(kept) == [77]


def test_it_is_closed_after_a_while(kept: Anticipated) -> None:
    kept.open.drop_since(99.0)
    assert closed(kept) == []
    kept.open.drop_since(100.0)
    assert closed(kept) == [77]


def test_a_written_file_is_closed_here_and_told_of_later(kept: Anticipated) -> None:
    written = CLOSED_LATE | 78
    assert kept.answer(closing(written, unique=12)) == HEAD.pack(16, 0, 12)
    assert kept.answer(opening()) is None, "and it is asked anew"
    assert closed(kept) == [77, written]
    kept.answer(closing(CLOSED_LATE | 79))
    assert (kept.open.late, closed(kept)) == (1, []), "it waits for others"


def test_unless_a_lock_ends_with_it_or_it_may_have_been_told(kept: Anticipated) -> None:
    written = CLOSED_LATE | 78
    ends_a_lock = request(RELEASE, FILE, struct.pack("<QIIQ", written, 0, ENDS_A_LOCK, 0))
    assert kept.answer(ends_a_lock) is None
    assert kept.answer(closing(written, unique=2 | RESENT)) is None
    assert kept.open.late == 0
