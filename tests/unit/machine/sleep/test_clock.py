"""A host that slept is told from one that is only slow."""

from __future__ import annotations

from proa.machine.sleep.clock import ClockWatch


def test_time_that_passes_is_no_jump() -> None:
    watch = ClockWatch()
    assert [watch.look(1000 + t, 50 + t) for t in (0, 5, 10, 600)] == [0.0] * 4


def test_a_sleep_and_a_clock_that_is_set_are_seen_once() -> None:
    watch = ClockWatch()
    watch.look(1000, 50)
    assert watch.look(4605, 55) == 3600
    assert watch.look(4610, 60) == 0.0
    assert watch.look(4515, 65) == -100, "backwards too"


def test_many_small_steps_are_a_jump_in_the_end() -> None:
    watch = ClockWatch()
    watch.look(1000, 50)
    jumps = [watch.look(1000 + t * 5 + t * 0.3, 50 + t * 5) for t in range(1, 5)]
    assert [jump > 0 for jump in jumps] == [False, False, False, True]
