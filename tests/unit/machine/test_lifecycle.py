"""The state is derived from facts: each row is what is known, and what must be said of it."""

from __future__ import annotations

import pytest

from proa.machine.lifecycle import BOUNDS, Facts, derive, rebooted
from proa.model.machine import MachineState as S
from proa.model.problem import LAYERS, Problem

BAD_CONFIG = Problem(code="config-corrupt", message="x")
BAD_HEALTH = Problem(code="data-disk-damaged", message="x", layer="engine")
LAST = Problem(code="guest-panicked", message="x", layer="kernel")


@pytest.mark.parametrize(
    ("facts", "state", "code"),
    [
        (Facts(exists=False), S.ABSENT, None),
        (Facts(exists=False, alive=True), S.ABSENT, None),
        (Facts(exists=True), S.STOPPED, None),
        (Facts(exists=True, operation=S.STARTING, alive=True), S.STARTING, None),
        (Facts(exists=True, operation=S.STOPPING, alive=True, engine_answers=True), S.STOPPING, None),
        (Facts(exists=True, alive=True, engine_answers=True), S.RUNNING, None),
        # a remembered word never makes a machine run: nothing answered
        (Facts(exists=True, alive=True, wanted_running=True), S.BROKEN, "engine-silent"),
        (Facts(exists=True, alive=True, health_problem=BAD_HEALTH), S.BROKEN, "data-disk-damaged"),
        (Facts(exists=True, wanted_running=True), S.BROKEN, "machine-died"),
        (Facts(exists=True, wanted_running=True, last_problem=LAST), S.BROKEN, "guest-panicked"),
        (Facts(exists=True, last_problem=LAST), S.BROKEN, "guest-panicked"),
        (Facts(exists=True, config_problem=BAD_CONFIG), S.BROKEN, "config-corrupt"),
        # while it is started again by itself, both are said: that, and why
        (Facts(exists=True, wanted_running=True, recovering=LAST), S.BROKEN, "guest-panicked"),
        (Facts(exists=True, operation=S.STARTING, recovering=LAST), S.STARTING, "guest-panicked"),
        # a computer that was restarted has broken nothing
        (Facts(exists=True, last_problem=rebooted("m")), S.STOPPED, "host-rebooted"),
        (Facts(exists=True, alive=True, engine_answers=True, notice=LAST), S.RUNNING, "guest-panicked"),
        # a memory image is a fact as well, whatever word was left
        (Facts(exists=True, suspended=True), S.SUSPENDED, None),
        (Facts(exists=True, suspended=True, wanted_running=True), S.SUSPENDED, None),
        (Facts(exists=True, suspended=True, last_problem=LAST), S.SUSPENDED, "guest-panicked"),
        (Facts(exists=True, suspended=True, config_problem=BAD_CONFIG), S.BROKEN, "config-corrupt"),
        (Facts(exists=True, suspended=True, operation=S.STARTING), S.STARTING, None),
        (Facts(exists=True, operation=S.SUSPENDING, alive=True), S.SUSPENDING, None),
        # a config broken while it runs is said, and the engine that answers is not denied
        (
            Facts(exists=True, alive=True, engine_answers=True, config_problem=BAD_CONFIG),
            S.RUNNING,
            "config-corrupt",
        ),
    ],
)
def test_state_from_facts(facts: Facts, state: S, code: str | None) -> None:
    found, problem = derive("default", facts)
    assert found is state
    assert (problem.code if problem else None) == code


def test_broken_always_has_a_problem_and_a_way_out() -> None:
    for alive in (False, True):
        for wanted in (False, True):
            state, problem = derive("m", Facts(exists=True, alive=alive, wanted_running=wanted))
            assert (state is S.BROKEN) == (problem is not None)
            assert problem is None or problem.hint


def test_every_bound_belongs_to_a_layer_and_gives_emulation_more() -> None:
    assert set(BOUNDS) <= set(LAYERS)
    assert all(bound.emulated > bound.hardware for bound in BOUNDS.values())
