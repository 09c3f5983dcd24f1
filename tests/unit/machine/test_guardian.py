"""A machine is started again by itself, within bounds, and never against what a person said."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from proa.machine.guardian import Guardian
from proa.machine.lifecycle import Bound
from proa.machine.machine import Machine
from proa.machine.session import Session
from proa.machine.supervision import DELAYS
from proa.model.errors import ProaError
from proa.model.events import EventKind
from proa.model.machine import MachineState
from proa.model.problem import Problem

DIED = Problem(code="machine-died", message="it ended by itself", hint="proa start", layer="hypervisor")


class World:
    """A machine as its guardian sees it; `outcomes` says how each start ends."""

    def __init__(self) -> None:
        self.name = "m"
        self.outcomes: list[ProaError | None] = []
        self.starts = 0
        self.hold: asyncio.Event | None = None
        self.given_up: Problem | None = None
        self.said: list[tuple[EventKind, str, str]] = []
        self.paths: Any = None
        self.guardian = Guardian(cast(Machine, self), self.emit)

    def emit(self, kind: EventKind, message: str, *, done: str = "", problem: Any = None) -> None:
        self.said.append((kind, message, done))

    async def revive(self) -> None:
        self.starts += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.outcomes and (error := self.outcomes.pop(0)) is not None:
            raise error

    def give_up(self, problem: Problem) -> None:
        self.given_up = problem

    async def settled(self) -> None:
        async with asyncio.timeout(5):
            while self.guardian._revival is not None and not self.guardian._revival.done():
                await asyncio.sleep(0.005)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("proa.machine.supervision.DELAYS", (0.01,) * len(DELAYS))
    return World()


async def test_what_ended_is_started_again_and_both_are_told(world: World) -> None:
    world.guardian.ended(DIED)
    await asyncio.sleep(0)
    assert world.guardian.recovering is not None
    assert world.guardian.recovering.code == "machine-died"
    assert "attempt 1 of 3" in world.guardian.recovering.hint
    await world.settled()
    assert world.starts == 1 and world.guardian.recovering is None
    assert [kind for kind, *_ in world.said] == [EventKind.PROBLEM, EventKind.REPAIR]
    await world.guardian.close()


async def test_attempts_are_bounded_and_the_last_reason_stays(world: World) -> None:
    world.outcomes = [ProaError("disk-full", "no room", why=str(number)) for number in range(9)]
    world.guardian.ended(DIED)
    await world.settled()
    assert world.starts == len(DELAYS)
    assert world.given_up is not None
    assert world.given_up.code == "machine-keeps-ending"
    assert world.given_up.why == "no room: 2" and "proa start m" in world.given_up.hint
    assert [kind for kind, *_ in world.said] == [EventKind.PROBLEM] * 3 + [EventKind.FAILED]
    await world.guardian.close()


@pytest.mark.parametrize("under_way", [False, True])
async def test_a_stop_calls_it_off(world: World, under_way: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if under_way:
        world.hold = asyncio.Event()
    else:
        monkeypatch.setattr("proa.machine.supervision.DELAYS", (60.0,) * 3)
    world.guardian.ended(DIED)
    async with asyncio.timeout(5):
        while under_way and not world.starts:
            await asyncio.sleep(0.005)
        await world.guardian.command(MachineState.STOPPING)
    assert world.guardian.recovering is None and world.given_up is None
    await asyncio.sleep(0.05)
    assert world.starts == int(under_way)
    await world.guardian.close()


async def test_a_start_is_joined_and_does_not_wait_for_our_delay(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.hold = asyncio.Event()
    world.guardian.ended(DIED)
    async with asyncio.timeout(5):
        while not world.starts:
            await asyncio.sleep(0.005)
        await world.guardian.command(MachineState.STARTING)
    assert world.guardian._revival is not None and not world.guardian._revival.done(), "it goes on"
    world.hold.set()
    await world.settled()
    monkeypatch.setattr("proa.machine.supervision.DELAYS", (60.0,) * 3)
    world.guardian.ended(DIED)
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await world.guardian.command(MachineState.STARTING)
    assert world.guardian.recovering is None
    await world.guardian.close()


async def test_after_a_command_all_attempts_are_there_again(world: World) -> None:
    world.outcomes = [ProaError("x", "x")] * 3
    world.guardian.ended(DIED)
    await world.settled()
    await world.guardian.command(MachineState.STARTING)
    world.guardian.ended(DIED)
    await world.settled()
    assert world.starts == 4 and world.said[-1][0] is EventKind.REPAIR
    await world.guardian.close()


class Silent:
    """A session whose guest hears nothing until it has been asked `answers_at` times (0: never)."""

    def __init__(self, answers_at: int = 0) -> None:
        self.asked, self.answers_at = 0, answers_at
        self.hypervisor = self.control = self
        self.accelerator, self.clock_off = "kvm", 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.folder = Path("/")
        self.hypervisor_answers = True

    async def stall(self) -> None:
        if not self.hypervisor_answers:
            raise ProaError("hypervisor-silent", "it does not answer")

    async def answers(self, timeout: float) -> bool:
        self.asked += 1
        return self.asked == self.answers_at


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proa.machine.health.INTERVAL", 0.01)
    monkeypatch.setattr("proa.machine.health.HUNG_HYPERVISOR", Bound(hardware=0.05, emulated=0.05))
    monkeypatch.setattr("proa.machine.health.HUNG_GUEST", Bound(hardware=0.2, emulated=0.2))


async def _hangs(world: World, session: Silent) -> tuple[Problem | None, list[str]]:
    world.paths = session
    said: list[str] = []
    async with asyncio.timeout(5):
        found = await world.guardian.hangs(
            cast(Session, session), lambda step, message, fraction: said.append(message)
        )
    return found, said


@pytest.mark.usefixtures("quick")
async def test_what_stays_silent_while_somebody_waits_is_named_and_said_once(world: World) -> None:
    session = Silent()
    problem, said = await _hangs(world, session)
    assert problem is not None and problem.code == "guest-agent-silent"
    assert session.asked > 2 and len(said) == 1 and "ended if that lasts" in said[0]
    session.hypervisor_answers = False
    problem, said = await _hangs(world, session)
    assert problem is not None and problem.code == "hypervisor-silent"


@pytest.mark.usefixtures("quick")
async def test_what_answers_in_time_is_left_alone(world: World) -> None:
    assert await _hangs(world, Silent(answers_at=1)) == (None, [])
    problem, said = await _hangs(world, Silent(answers_at=3))
    assert problem is None and len(said) == 1
