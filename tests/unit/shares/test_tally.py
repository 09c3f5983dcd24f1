"""What people are told of how much is asked, and of what took long."""

from __future__ import annotations

import pytest

from proa.shares.tally import KEPT, RATE_OF, Tally


def test_nothing_was_asked() -> None:
    assert (Tally().asked, Tally().rate(1000.0), Tally().slowest(1000.0)) == (0, 0.0, None)


def test_the_rate_is_of_the_last_whole_seconds() -> None:
    tally = Tally()
    for number in range(100):
        tally.add(1, 1000.0, 1000.0 + number / 20)  # 20 a second, for 5 seconds
    assert tally.asked == 100
    assert tally.rate(1000.5) == 0.0, "this second is not over"
    assert tally.rate(1001.0) == pytest.approx(20 / RATE_OF)
    assert tally.rate(1005.0) == pytest.approx(100 / RATE_OF)
    assert tally.rate(1010.9) == pytest.approx(100 / RATE_OF)
    assert tally.rate(1011.0) == pytest.approx(80 / RATE_OF)
    assert tally.rate(1015.0) == 0.0
    assert tally.rate(1000.0 + KEPT) == 0.0


def test_the_slowest_is_told_for_a_minute() -> None:
    tally = Tally()
    tally.add(15, 999.7, 1000.0)
    tally.add(16, 1000.0, 1000.1)
    tally.add(16, 1001.0, 1001.2)
    op, took = tally.slowest(1002.0) or (0, 0.0)
    assert (op, took) == (15, pytest.approx(0.3))
    assert tally.slowest(1000.0 + KEPT) == (16, pytest.approx(0.2))
    assert tally.slowest(1001.0 + KEPT) is None
    tally.add(20, 1001.0 + KEPT, 1001.0 + KEPT)
    assert tally.slowest(1001.0 + KEPT) == (20, 0.0), "a second's place is used again"
