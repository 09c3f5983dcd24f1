"""Whether a machine that ended is started again: scripts of events."""

from __future__ import annotations

from proa.machine.supervision import DELAYS, WELL_AFTER, Again, GiveUp, Supervision


def test_attempts_come_later_and_later_and_end() -> None:
    supervision, now = Supervision(), 100.0
    supervision.up(now)
    for number, delay in enumerate(DELAYS, 1):
        assert supervision.ended(now + number) == Again(number, delay)
    assert list(DELAYS) == sorted(DELAYS)
    assert supervision.ended(now) == GiveUp(len(DELAYS))
    assert supervision.ended(now) == GiveUp(len(DELAYS)), "and it stays so"


def test_a_machine_that_ends_soon_after_each_start_gets_no_new_attempts() -> None:
    supervision, now, decisions = Supervision(), 0.0, []
    for _ in range(5):
        supervision.up(now)
        now += WELL_AFTER - 1
        decisions.append(supervision.ended(now))
    assert isinstance(decisions[2], Again) and isinstance(decisions[3], GiveUp)


def test_a_machine_that_was_well_for_a_while_gets_all_attempts_again() -> None:
    supervision = Supervision()
    for now in range(0, 100_000, 1000):
        supervision.up(now)
        assert supervision.ended(now + WELL_AFTER) == Again(1, DELAYS[0])


def test_time_spent_down_is_not_time_spent_well() -> None:
    supervision = Supervision()
    supervision.up(0)
    supervision.ended(1)
    assert supervision.ended(10 * WELL_AFTER) == Again(2, DELAYS[1])


def test_a_command_of_a_person_begins_anew() -> None:
    supervision = Supervision()
    for _ in range(9):
        supervision.ended(0)
    supervision.asked()
    assert supervision.ended(0) == Again(1, DELAYS[0])
