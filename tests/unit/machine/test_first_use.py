"""What nobody waits for begins after the first answers, or when nobody asks."""

from __future__ import annotations

from proa.machine.first_use import GAP, MOST, PATIENCE, FirstUse

UP = 100.0


def test_without_a_request_it_waits_for_one_and_no_longer() -> None:
    first = FirstUse(UP)
    assert not first.is_served(UP + PATIENCE / 2, busy=False, last=0.0)
    assert first.is_served(UP + PATIENCE, busy=False, last=0.0)


def test_a_request_that_is_answered_ends_the_wait_after_a_gap() -> None:
    first = FirstUse(UP)
    assert not first.is_served(UP + 0.5, busy=True, last=UP + 0.4)
    assert not first.is_served(UP + 0.55, busy=False, last=UP + 0.4), "a CLI's next one follows at once"
    assert not first.is_served(UP + 0.6, busy=True, last=UP + 0.58)
    assert first.is_served(UP + 0.6 + GAP, busy=False, last=UP + 0.58)


def test_the_request_that_woke_it_counts_though_it_came_before() -> None:
    first = FirstUse(UP)
    assert not first.is_served(UP + 0.05, busy=True, last=UP - 1)
    assert first.is_served(UP + 0.05 + GAP, busy=False, last=UP - 1)


def test_one_that_was_answered_between_two_looks_is_seen() -> None:
    first = FirstUse(UP)
    assert not first.is_served(UP + 0.05, busy=False, last=UP + 0.03)
    assert first.is_served(UP + 0.04 + GAP, busy=False, last=UP + 0.03)


def test_one_that_goes_on_is_not_waited_for() -> None:
    first = FirstUse(UP)
    assert not first.is_served(UP + MOST - 0.1, busy=True, last=UP)
    assert first.is_served(UP + MOST, busy=True, last=UP)
