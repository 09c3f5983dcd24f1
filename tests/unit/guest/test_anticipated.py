"""Answers told ahead: each is given once, and never after anything that may have made it untrue."""

from __future__ import annotations

import struct

import pytest

from proa_guest import anticipated
from proa_guest.anticipated import (
    BATCH_FORGET,
    CONTENT,
    CREATE,
    FORGET,
    GETATTR,
    INVAL_ENTRY,
    INVAL_INODE,
    LINK,
    MKDIR,
    MKNOD,
    MOST,
    NEW,
    OPEN,
    READDIR,
    READDIRPLUS,
    REMOVEXATTR,
    RENAME,
    RENAME2,
    RESENT,
    RETURNED,
    RMDIR,
    SETATTR,
    SETXATTR,
    SYMLINK,
    UNLINK,
    Anticipated,
)
from proa_guest.fuse import HEAD
from tests.support.relayed import (
    ATTRIBUTES,
    FILE,
    FOLDER,
    OTHER,
    closing,
    entry,
    forgotten,
    listing,
    look,
    notice,
    opening,
    pushed,
    request,
)


@pytest.fixture
def here() -> Anticipated:
    """It knows two files of a folder, its attributes, and where its listing ends."""
    found = Anticipated()
    found.take(pushed((10, b"one"), (11, b"two"), attributes=ATTRIBUTES, end=4))
    return found


# -- answers ---------------------------------------------------------------------------------------


def test_each_answer_is_given_once(here: Anticipated) -> None:
    answer = here.answer(look(b"one", unique=6))
    assert answer == HEAD.pack(144, 0, 6) + entry(10)
    assert here.answer(look(b"one")) is None
    assert here.answer(request(GETATTR)) == HEAD.pack(120, 0, 2) + ATTRIBUTES
    assert here.answer(request(GETATTR)) is None
    assert here.answer(listing(READDIRPLUS, 3)) is None, "not the end"
    assert here.answer(listing(READDIRPLUS, 4)) == HEAD.pack(16, 0, 2)
    assert here.answer(listing(READDIR, 4)) is None
    assert here.answer(look(b"two")) is not None
    assert forgotten(here) == set(), "the kernel has got them"
    assert len(here) == 0


def test_others_are_asked_of_the_host(here: Anticipated) -> None:
    assert here.answer(look(b"on")) is None
    assert here.answer(look(b"one", OTHER)) is None
    assert here.answer(request(GETATTR, OTHER)) is None
    assert here.answer(look(b"one", pid=5), never_for=5) is None, "it repeats what the host did"
    assert here.answer(look(b"one", unique=2 | RESENT)) is None, "the host may have answered it"
    assert here.answer(look(b"one")) is not None


def test_an_answer_that_nobody_waited_for_is_given_back(here: Anticipated) -> None:
    def given_up(asked: memoryview) -> None:
        answer = here.answer(asked)
        assert answer is not None
        here.not_wanted(asked, answer)

    given_up(look(b"one"))
    assert forgotten(here) == {10}
    given_up(request(GETATTR))
    given_up(listing(READDIR, 4))
    here.take(pushed(folder=OTHER, what=NEW))
    given_up(look(b"none", OTHER))
    assert forgotten(here) == set()
    here.take(pushed(folder=FILE, end=77, what=CONTENT))
    assert here.answer(closing(77)) is not None
    given_up(opening())
    assert len(here.open) == 1, "it is there for the next"


# -- new folders -----------------------------------------------------------------------------------


@pytest.fixture
def made() -> Anticipated:
    """It knows of a folder that the guest has just made."""
    found = Anticipated()
    found.take(pushed(folder=OTHER, what=NEW))
    return found


def is_nothing(answer: bytes | None) -> bool:
    """Whether it says that there is no such file."""
    return answer is not None and struct.unpack_from("<Q", answer, HEAD.size) == (0,)


def test_nothing_is_in_a_new_folder(made: Anticipated) -> None:
    for _ in range(2):
        assert is_nothing(made.answer(look(b"one", OTHER)))
    assert made.answer(look(b"one")) is None, "of others that is not known"
    assert made.answer(look(b"one", OTHER, pid=5), never_for=5) is None
    assert is_nothing(made.answer(look(b"n" * 255, OTHER)))
    assert made.answer(look(b"n" * 256, OTHER)) is None, "that is another error"


@pytest.mark.parametrize(
    ("op", "folder", "body"),
    (
        (SYMLINK, OTHER, b"one\0target\0"),
        (MKNOD, OTHER, bytes(16) + b"one\0"),
        (MKDIR, OTHER, bytes(8) + b"one\0"),
        (LINK, OTHER, struct.pack("<Q", 20) + b"one\0"),
        (CREATE, OTHER, bytes(16) + b"one\0"),
        (RENAME, FOLDER, struct.pack("<Q", OTHER) + b"three\0one\0"),
        (RENAME2, FOLDER, struct.pack("<Q2I", OTHER, 0, 0) + b"three\0one\0"),
        (RENAME2, OTHER, struct.pack("<Q2I", FOLDER, 2, 0) + b"one\0three\0"),
    ),
)
def test_but_what_the_guest_puts_there(made: Anticipated, op: int, folder: int, body: bytes) -> None:
    assert made.answer(request(op, folder, body, unique=30)) is None
    assert made.answer(look(b"one", OTHER)) is None, "it may be there from now on"
    assert is_nothing(made.answer(look(b"two", OTHER)))
    made.replied(30)
    assert made.answer(look(b"one", OTHER)) is None
    assert made.answer(request(UNLINK, OTHER, b"one\0")) is None
    assert made.answer(look(b"one", OTHER)) is None


@pytest.mark.parametrize(
    "said",
    (
        notice(INVAL_ENTRY, struct.pack("<Q2I", OTHER, 3, 0) + b"any\0"),
        notice(INVAL_INODE, struct.pack("<Qqq", OTHER, 0, 0)),
    ),
)
def test_and_not_once_the_host_does_something_there(made: Anticipated, said: bytes) -> None:
    made.not_true(said)
    assert made.answer(look(b"one", OTHER)) is None


def test_nor_once_it_is_forgotten(made: Anticipated) -> None:
    made.answer(request(FORGET, OTHER))
    assert made.answer(look(b"one", OTHER)) is None
    made.take(pushed(folder=OTHER, what=NEW))
    made.answer(request(BATCH_FORGET, 0, anticipated.BATCH.pack(1, 0) + struct.pack("<2Q", OTHER, 1)))
    assert made.answer(look(b"one", OTHER)) is None
    made.take(pushed(folder=OTHER, what=NEW))
    made.clear()
    assert made.answer(look(b"one", OTHER)) is None


def test_new_folders_are_bounded(made: Anticipated) -> None:
    for number in range(anticipated.MOST_NEW):
        made.take(pushed(folder=100 + number, what=NEW))
    assert made.answer(look(b"one", OTHER)) is None
    for number in range(MOST + 1):
        made.answer(request(CREATE, 100, bytes(16) + b"%d\0" % number))
    assert made.answer(look(b"one", 100)) is None
    assert is_nothing(made.answer(look(b"one", 101)))


# -- what makes them untrue ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "gone"),
    (
        pytest.param(notice(INVAL_ENTRY, struct.pack("<Q2I", FOLDER, 3, 0) + b"one\0"), {10}, id="name"),
        pytest.param(notice(INVAL_ENTRY, struct.pack("<Q2I", OTHER, 3, 0) + b"one\0"), set(), id="elsewhere"),
        pytest.param(notice(INVAL_INODE, struct.pack("<Qqq", 11, 0, 0)), {11}, id="file"),
    ),
)
def test_the_host_says_that_something_changed(here: Anticipated, said: bytes, gone: set[int]) -> None:
    here.not_true(said)
    assert forgotten(here) == gone
    assert (here.answer(look(b"one")) is None) == (10 in gone)
    assert (here.answer(look(b"two")) is None) == (11 in gone)


def test_the_host_says_that_the_folder_changed(here: Anticipated) -> None:
    here.not_true(notice(INVAL_INODE, struct.pack("<Qqq", FOLDER, 0, 0)))
    assert here.answer(request(GETATTR)) is None
    assert here.answer(listing(READDIR, 4)) is None
    assert here.answer(look(b"one")) is not None, "a change of a name in it is told apart"


@pytest.mark.parametrize(
    ("op", "body"),
    (
        (SYMLINK, b"one\0target\0"),
        (MKNOD, bytes(16) + b"one\0"),
        (MKDIR, bytes(8) + b"one\0"),
        (UNLINK, b"one\0"),
        (RMDIR, b"one\0"),
        (LINK, struct.pack("<Q", 20) + b"one\0"),
        (CREATE, bytes(16) + b"one\0"),
        (RENAME, struct.pack("<Q", OTHER) + b"one\0three\0"),
        (RENAME2, struct.pack("<Q2I", OTHER, 0, 0) + b"one\0three\0"),
    ),
)
def test_the_guest_changes_a_folder(here: Anticipated, op: int, body: bytes) -> None:
    here.take(pushed((12, b"three"), folder=OTHER))
    assert here.answer(request(op, body=body, unique=30)) is None
    renames = op in (RENAME, RENAME2)
    assert forgotten(here) == ({10, 12} if renames else {10})
    assert here.answer(look(b"one")) is None
    assert here.answer(request(GETATTR)) is None
    assert here.answer(listing(READDIRPLUS, 4)) is None
    assert here.answer(look(b"two")) is not None, "it is as it was"

    here.take(pushed((13, b"four"), attributes=ATTRIBUTES))
    assert here.answer(look(b"four")) is None, "it may have been read before the change"
    assert here.answer(request(GETATTR)) is None
    assert forgotten(here) == {13}
    if renames:
        here.take(pushed((14, b"four"), folder=OTHER))
        assert forgotten(here) == {14}
    here.take(pushed(attributes=ATTRIBUTES, unique=30))
    assert here.answer(request(GETATTR)) is not None, "it came with the answer to the change itself"
    here.replied(30)
    here.take(pushed((13, b"four")))
    assert here.answer(look(b"four")) is not None


@pytest.mark.parametrize(
    ("op", "body", "same"),
    (
        (UNLINK, b"any\0", True),
        (LINK, struct.pack("<Q", 20) + b"second\0", True),
        (RENAME, struct.pack("<Q", OTHER) + b"any\0other\0", False),  # this folder itself may be moved so
    ),
)
def test_the_guest_changes_another_folder(here: Anticipated, op: int, body: bytes, same: bool) -> None:
    assert here.answer(request(op, OTHER, body, unique=30)) is None
    assert (here.answer(request(GETATTR)) is not None) == same


@pytest.mark.parametrize("op", (SETATTR, SETXATTR, REMOVEXATTR, OPEN, FORGET))
def test_a_file_that_the_kernel_knows_already(here: Anticipated, op: int) -> None:
    assert here.answer(request(op, 10, bytes(8))) is None
    assert here.answer(look(b"one")) is None
    assert forgotten(here) == {10}


def test_files_that_the_kernel_forgets_together(here: Anticipated) -> None:
    body = anticipated.BATCH.pack(2, 0) + struct.pack("<4Q", 10, 1, 50, 3)
    assert here.answer(request(BATCH_FORGET, 0, body)) is None
    assert forgotten(here) == {10}


def test_the_folders_own_attributes_are_set(here: Anticipated) -> None:
    assert here.answer(request(SETATTR, unique=30)) is None
    assert here.answer(request(GETATTR)) is None
    here.take(pushed(attributes=ATTRIBUTES))
    assert here.answer(request(GETATTR)) is None
    here.replied(30)
    here.take(pushed(attributes=ATTRIBUTES))
    assert here.answer(request(GETATTR)) is not None


def test_a_change_that_is_sent_again_ends_with_its_answer(here: Anticipated) -> None:
    here.answer(request(UNLINK, body=b"one\0", unique=30))
    here.clear()
    here.answer(request(UNLINK, body=b"one\0", unique=30 | RESENT))
    here.take(pushed(attributes=ATTRIBUTES, unique=30 | RESENT))
    assert here.answer(request(GETATTR)) is not None
    here.replied(30 | RESENT)
    here.take(pushed(attributes=ATTRIBUTES))
    assert here.answer(request(GETATTR)) is not None


def test_a_new_stream(here: Anticipated) -> None:
    here.clear()
    assert here.answer(look(b"one")) is None
    assert here.answer(request(GETATTR)) is None
    assert here.answer(listing(READDIR, 4)) is None
    assert forgotten(here) == {10, 11}


def test_another_file_under_the_same_name(here: Anticipated) -> None:
    here.take(pushed((12, b"one")))
    assert forgotten(here) == {10}
    assert here.answer(look(b"one")) == HEAD.pack(144, 0, 2) + entry(12)


def test_a_second_name_of_a_file_is_not_kept(here: Anticipated) -> None:
    here.take(pushed((10, b"second")))
    assert here.answer(look(b"second")) is None
    assert forgotten(here) == {10}
    assert here.answer(look(b"one")) is not None


# -- bounds ----------------------------------------------------------------------------------------


def test_the_oldest_folders_are_dropped_when_it_is_too_much() -> None:
    here = Anticipated()
    each = 200
    for folder in range(MOST // each + 2):
        first = 1000 + folder * each
        here.take(pushed(*((first + n, b"%d" % n) for n in range(each)), folder=folder + 1))
        assert len(here) <= MOST
    assert here.answer(look(b"0", 1)) is None
    assert here.answer(look(b"0", MOST // each + 2)) is not None
    assert 1000 in forgotten(here)


def test_folders_are_bounded_too() -> None:
    here = Anticipated()
    for folder in range(anticipated.MOST_ATTRIBUTES + 1):
        here.take(pushed(folder=folder + 1, attributes=ATTRIBUTES, end=1))
    assert here.answer(request(GETATTR, 1)) is None
    assert here.answer(request(GETATTR, anticipated.MOST_ATTRIBUTES + 1)) is not None


def test_reports_wait_until_they_are_worth_one() -> None:
    here = Anticipated()
    count = RETURNED * 2 + 1
    here.take(pushed(*((100 + n, b"%d" % n) for n in range(count))))
    here.answer(request(BATCH_FORGET, 0, anticipated.BATCH.pack(1, 0) + struct.pack("<2Q", 100, 1)))
    assert here.forgotten() == b""
    here.clear()
    assert len(here.forgotten()) and len(here.forgotten())
    assert here.forgotten() == b""
    assert forgotten(here) == {100 + count - 1}
