"""Which service is started when: scripts of events."""

from __future__ import annotations

import pytest

from proa_guest.supervisor import FIRST_DELAY, MOST_DELAY, WELL_AFTER, Service, next_due


def test_a_service_waits_for_the_one_it_needs() -> None:
    dockerd = Service("dockerd", ["dockerd"], after="containerd")
    assert not dockerd.wants_start(0, {})
    assert not dockerd.wants_start(0, {"containerd": False})
    assert dockerd.wants_start(0, {"containerd": True})


def test_restarts_come_later_and_later_with_a_bound() -> None:
    service, now, delays = Service("x", ["x"]), 0.0, []
    for _ in range(12):
        assert service.wants_start(now, {})
        service.started(7, now)
        service.exited(1, "boom", now)
        delays.append(service.due - now)
        assert not service.wants_start(now, {})
        now = service.due
    assert delays[0] == FIRST_DELAY
    assert delays == sorted(delays)
    assert delays[-1] == MOST_DELAY
    assert service.report() == {"state": "backoff", "restarts": 12, "message": "x ended with status 1: boom"}


def test_a_service_that_was_well_comes_back_soon() -> None:
    service = Service("x", ["x"])
    for _ in range(8):
        service.started(7, 0)
        service.exited(-9, "", 0)
    service.started(7, 100)
    assert service.answered() and not service.answered()
    service.exited(-9, "", 100 + WELL_AFTER + 1)
    assert service.due - (100 + WELL_AFTER + 1) == pytest.approx(FIRST_DELAY)
    assert "signal 9" in service.message


def test_a_service_that_cannot_be_made_has_failed_and_is_tried_again() -> None:
    service = Service("x", ["x"])
    service.not_started("No such file", 5)
    assert service.state == "failed"
    assert service.wants_start(service.due, {})


def test_the_next_due_service_bounds_the_sleep() -> None:
    first, second = Service("a", ["a"]), Service("b", ["b"], after="a")
    assert next_due([first, second], {}, 0) == 0
    first.started(1, 0)
    assert next_due([first, second], {}, 0) is None
    assert next_due([first, second], {"a": True}, 0) == 0
