"""When a machine counts as unused."""

from __future__ import annotations

from proa.machine.sleep.idle import IdleClock, Use

NOBODY = Use(busy=False, last=0, containers=0)


def first(clock: IdleClock, uses: list[Use], step: float = 10) -> float | None:
    """When it is suspended, looking every `step` seconds from 1000 on."""
    for number, use in enumerate(uses):
        if clock.look(1000 + number * step, use):
            return number * step
    return None


def test_after_its_time_and_not_before() -> None:
    assert first(IdleClock(60, with_containers=False), [NOBODY] * 20) == 60


def test_use_begins_the_time_anew() -> None:
    busy = Use(busy=True, last=0, containers=0)
    assert first(IdleClock(60, with_containers=False), [NOBODY] * 5 + [busy] + [NOBODY] * 20) == 120
    brief = Use(busy=False, last=1034, containers=0)
    assert first(IdleClock(60, with_containers=False), [NOBODY] * 4 + [brief] * 20) == 100


def test_containers_keep_it_awake_unless_they_may_sleep() -> None:
    running = Use(busy=False, last=0, containers=1)
    assert first(IdleClock(60, with_containers=False), [running] * 50) is None
    assert first(IdleClock(60, with_containers=True), [running] * 50) == 60
    assert first(IdleClock(60, with_containers=False), [running] * 5 + [NOBODY] * 50) == 110


def test_off_is_never() -> None:
    assert first(IdleClock(None, with_containers=True), [NOBODY] * 1000) is None
