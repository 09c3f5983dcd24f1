"""Which service is started when: scripts of events."""

from __future__ import annotations

import pytest

from proa_guest.supervisor import (
    FIRST_DELAY,
    HUNG_AFTER,
    LEAST_LOOKS,
    MOST_DELAY,
    SAID_AFTER,
    START_HUNG_AFTER,
    WELL_AFTER,
    Service,
    next_due,
)


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
    words = "x ended with status 1: boom"
    assert service.report() == {
        "state": "backoff",
        "restarts": 12,
        "failures": 12,
        "message": words,
        "ended": words,
        "seconds": 0.0,
    }


def test_a_service_that_was_well_comes_back_soon() -> None:
    service = Service("x", ["x"])
    for _ in range(8):
        service.started(7, 0)
        service.exited(-9, "", 0)
    service.started(7, 100)
    assert service.answered(100) and not service.answered(101)
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


def _running() -> Service:
    service = Service("dockerd", ["dockerd"])
    service.started(7, 0)
    assert service.answered(6)
    return service


def test_a_start_is_measured_and_the_reason_of_an_end_outlives_the_restart() -> None:
    service = _running()
    assert service.report()["seconds"] == 6
    service.exited(-9, "", 10)
    service.started(8, 11)
    assert service.answered(13)
    report = service.report()
    assert (report["message"], report["ended"]) == ("", "dockerd was ended by signal 9")
    assert (report["seconds"], report["restarts"]) == (2, 1)


def test_failures_in_a_row_are_counted_apart_from_all_restarts() -> None:
    service = _running()
    service.exited(1, "", 3)
    service.started(8, 4)
    service.exited(1, "", 5 + WELL_AFTER)
    assert (service.restarts, service.failures) == (2, 1)


def test_a_service_that_answers_nothing_for_long_is_hung_and_said_so() -> None:
    service = _running()
    looks = [10.0 + 2 * number for number in range(30)]
    hung = next(now for now in looks if service.silent(now))
    assert hung - looks[0] == pytest.approx(HUNG_AFTER, abs=2)
    service.exited(-9, "some line of its log", hung)
    assert service.message == f"dockerd did not answer for {HUNG_AFTER:.0f} s and was ended"
    service.started(8, hung + 1)
    assert not service.silent(hung + 2), "the next process begins anew"
    service.exited(-9, "", hung + 3)
    assert "signal 9" in service.message


def test_a_busy_service_is_not_taken_for_a_hung_one() -> None:
    service = _running()
    for now in range(10, 1000, 2):
        assert not service.silent(now)
        if now % 20 == 0:
            service.answered(now + 1)


def test_a_guest_that_stood_still_has_hung_nobody() -> None:
    service = _running()
    assert not service.silent(10)
    jump = 10_000.0
    assert not any(service.silent(jump + look) for look in range(LEAST_LOOKS - 2))


def test_a_start_has_longer() -> None:
    service = Service("dockerd", ["dockerd"])
    service.started(7, 0)
    assert not any(service.silent(now) for now in range(0, int(START_HUNG_AFTER), 10))
    assert service.silent(START_HUNG_AFTER)
    assert not Service("x", ["x"]).silent(1000), "who does not run cannot hang"


def test_a_silence_is_told_before_it_is_ended_and_forgotten_with_an_answer() -> None:
    service = Service("containerd", ["containerd"])
    service.started(7, 0)
    service.silent(1)
    assert service.report()["state"] == "starting", "who comes up has not answered yet"
    service.answered(4)
    told = []
    for now in range(6, 6 + int(HUNG_AFTER), 2):
        assert not service.silent(now)
        told.append(service.report()["state"])
    assert told[0] == "ready" and told[-1] == "silent" and told == sorted(told), told
    assert told.count("ready") * 2 <= SAID_AFTER + 2
    assert not service.answered(60), "it never stopped being ready"
    assert service.report()["state"] == "ready" and service.report()["seconds"] == 4
    for now in range(62, 76, 2):
        service.silent(now)
    service.exited(-9, "", 78)
    assert service.report()["state"] == "backoff"
