"""Listings told ahead: given once, whole, and never after anything that may have changed the folder."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from proa_guest import anticipated
from proa_guest.anticipated import (
    BATCH_FORGET,
    FORGET,
    GETATTR,
    INVAL_ENTRY,
    INVAL_INODE,
    LISTING,
    MKDIR,
    READDIR,
    READDIRPLUS,
    RENAME,
    UNLINK,
    Anticipated,
)
from proa_guest.fuse import HEAD, REQUEST
from tests.support.relayed import ATTRIBUTES, FOLDER, OTHER, listing, look, notice, pushed, request

READS = b"how it reads" * 10


@pytest.fixture
def here() -> Anticipated:
    """It knows how a folder reads, what it shows and where its listing ends."""
    found = Anticipated()
    found.take(pushed(attributes=ATTRIBUTES, end=4))
    found.take(pushed(attributes=READS, what=LISTING))
    return found


def test_a_listing_is_given_once_and_then_its_end(here: Anticipated) -> None:
    assert here.answer(listing(READDIR, 0)) is None, "which is told without attributes"
    assert here.answer(listing(READDIRPLUS, 0)) == HEAD.pack(HEAD.size + len(READS), 0, 2) + READS
    assert here.answer(listing(READDIRPLUS, 4)) == HEAD.pack(HEAD.size, 0, 2)
    assert here.answer(listing(READDIRPLUS, 0)) is None


def test_one_that_there_is_no_room_for_is_asked_of_the_host(here: Anticipated) -> None:
    small = request(READDIRPLUS, FOLDER, struct.pack("<QQI", 5, 0, len(READS) - 1))
    assert here.answer(small) is None
    assert here.answer(listing(READDIRPLUS, 3)) is None, "not from its beginning"


@pytest.mark.parametrize(
    "change",
    [
        lambda here: here.not_true(notice(INVAL_INODE, struct.pack("<QqQ", FOLDER, 0, 0))),
        lambda here: here.answer(request(UNLINK, FOLDER, b"one\0")),
        lambda here: here.answer(request(MKDIR, FOLDER, bytes(8) + b"new\0")),
        lambda here: here.answer(request(RENAME, OTHER, struct.pack("<Q", FOLDER) + b"a\0b\0")),
        lambda here: here.answer(request(FORGET, FOLDER, struct.pack("<Q", 1))),
        lambda here: here.answer(request(BATCH_FORGET, 0, struct.pack("<IIQQ", 1, 0, FOLDER, 1))),
        lambda here: here.clear(),
    ],
    ids=["told", "removed", "made", "moved into", "forgotten", "forgotten with others", "another stream"],
)
def test_what_may_have_changed_is_asked_of_the_host(
    here: Anticipated, change: Callable[[Anticipated], object]
) -> None:
    change(here)
    assert here.answer(listing(READDIRPLUS, 0)) is None


def test_what_is_told_while_it_is_being_changed_is_not_kept(here: Anticipated) -> None:
    here.answer(request(UNLINK, FOLDER, b"one\0", unique=8))
    here.take(pushed(attributes=READS, what=LISTING))
    assert here.answer(listing(READDIRPLUS, 0)) is None
    here.replied(8)
    here.take(pushed(attributes=READS, what=LISTING))
    assert here.answer(listing(READDIRPLUS, 0)) is not None


def test_another_name_that_changes_leaves_it(here: Anticipated) -> None:
    here.not_true(notice(INVAL_ENTRY, struct.pack("<QII", OTHER, 3, 0) + b"one\0"))
    assert here.answer(listing(READDIRPLUS, 0)) is not None


def test_the_oldest_are_dropped_where_it_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anticipated, "MOST_LISTINGS", 2 * len(READS))
    here = Anticipated()
    for folder in (FOLDER, FOLDER, OTHER, OTHER + 1):
        here.take(pushed(folder=folder, attributes=READS, what=LISTING))
    assert here.answer(listing(READDIRPLUS, 0)) is None
    asked = struct.pack("<QQI", 5, 0, 4096)
    assert here.answer(request(READDIRPLUS, OTHER, asked)) is not None
    assert here.answer(request(READDIRPLUS, OTHER + 1, asked)) is not None


@pytest.mark.parametrize("by", ["forgotten", "another is there"])
def test_what_is_in_a_folder_goes_with_it(by: str) -> None:
    """Once the host has let go of the folder it may not know where that is, and tell no change of it."""
    inner, file = 20, 21
    here = Anticipated()
    here.take(pushed((inner, b"inner")))
    here.take(pushed((file, b"file"), folder=inner, attributes=ATTRIBUTES))
    here.take(pushed(folder=inner, attributes=READS, what=LISTING))
    if by == "forgotten":
        assert here.answer(request(FORGET, FOLDER, struct.pack("<Q", 1))) is None
        report = here.reports()  # before the kernel's own request
    else:
        here.not_true(notice(INVAL_ENTRY, struct.pack("<QII", FOLDER, 5, 0) + b"inner\0"))
        report = here.forgotten(all_of_them=True)
    start = REQUEST.size + anticipated.BATCH.size
    assert [node for node, _ in anticipated.FORGOTTEN.iter_unpack(report[start:])] == [file, inner]
    assert here.answer(request(READDIRPLUS, inner, struct.pack("<QQI", 5, 0, 4096))) is None
    assert here.answer(request(GETATTR, inner)) is None
    assert here.answer(look(b"file", inner)) is None
