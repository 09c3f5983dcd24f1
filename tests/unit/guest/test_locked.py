"""Which closings of files the host is asked about: those that may end a lock, and the first."""

from __future__ import annotations

import pytest

from proa_guest import locked
from proa_guest.locked import FLUSH, INIT, SETLK, SETLKW, Locked

OPEN = 14


@pytest.fixture
def keeps() -> Locked:
    """The host keeps locks."""
    found = Locked()
    assert not found.is_nothing(INIT, 2, 0)
    assert not found.is_nothing(FLUSH, 4, 10)
    found.replied(4, 0)
    return found


def test_only_files_with_locks_are_asked_about(keeps: Locked) -> None:
    assert not keeps.is_nothing(SETLK, 6, 11) and not keeps.is_nothing(SETLKW, 8, 12)
    assert [keeps.is_nothing(FLUSH, 10, node) for node in (10, 11, 12)] == [True, False, False]
    assert not keeps.is_nothing(OPEN, 12, 10)


def test_a_host_that_keeps_none_says_so_to_the_kernel_itself() -> None:
    found = Locked()
    found.is_nothing(INIT, 2, 0)
    assert not found.is_nothing(FLUSH, 4, 10)
    found.replied(4, -38)
    assert not found.is_nothing(FLUSH, 6, 10)
    found.replied(8, 0)  # to something else
    assert not found.is_nothing(FLUSH, 10, 10)


def test_one_that_is_younger_than_the_mount_knows_of_no_locks() -> None:
    found = Locked()
    found.is_nothing(FLUSH, 4, 10)
    found.replied(4, 0)
    assert not found.is_nothing(FLUSH, 6, 10)


def test_too_many_to_know_are_asked_about(keeps: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locked, "MOST", 2)
    for node in (11, 12, 13):
        keeps.is_nothing(SETLK, 6, node)
    assert not keeps.is_nothing(FLUSH, 8, 10)
