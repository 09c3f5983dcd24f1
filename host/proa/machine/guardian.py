"""Looks after one machine: sees what goes wrong while it runs, and starts it again where it ended.

The decisions are in `supervision` and `health`; this carries them out and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

import msgspec

from proa.machine import health
from proa.machine.supervision import DELAYS, Again, Supervision
from proa.model.errors import ProaError
from proa.model.events import Emit, EventKind
from proa.model.machine import MachineState
from proa.model.problem import Problem
from proa.system.memory import free_disk
from proa.system.tasks import Tasks

if TYPE_CHECKING:
    from proa.link.control import GuestStatus
    from proa.machine.booting import Say
    from proa.machine.machine import Machine
    from proa.machine.session import Session

log = logging.getLogger("proa.machine")


class Guardian:
    """Belongs to its machine, which tells it of every command, start and end."""

    def __init__(self, machine: Machine, emit: Emit) -> None:
        self._machine = machine
        self._emit = emit
        self._supervision = Supervision()
        self._tasks = Tasks(f"guardian of {machine.name}")
        self._revival: asyncio.Task[None] | None = None
        self._waits = False  # for its time, before an attempt
        self._watching: asyncio.Task[None] | None = None
        self._health: health.Health | None = None
        self._guest: GuestStatus | None = None
        self.recovering: Problem | None = None  # why it is being started again

    # -- what the machine tells ---------------------------------------------------------------

    async def command(self, operation: MachineState) -> None:
        """A person's command comes first: a start is joined, everything else calls our own start off."""
        self._supervision.asked()
        task = self._revival
        if task is not None and (self._waits or operation is MachineState.STOPPING):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._revival, self.recovering = None, None

    def up(self, session: Session) -> None:
        """Its engine answers: from now on it is looked at."""
        self._supervision.up(time.monotonic())
        if self._watching is None or self._watching.done():
            self._watching = self._tasks.supervise(lambda: self._watch(session), name="looks")

    def ended(self, problem: Problem) -> None:
        """It ended by itself although it is wanted."""
        self._health = None
        if self._revival is None or self._revival.done():
            self._revival = self._tasks.start(self._revive(problem), name="revival")

    async def close(self) -> None:
        await self._tasks.close()

    # -- what the status asks -----------------------------------------------------------------

    @property
    def problem(self) -> Problem | None:
        """What is wrong with the machine that runs."""
        return self._health.problem if self._health is not None else None

    @property
    def paused(self) -> bool:
        """The hypervisor paused the guest, as its disk cannot be written."""
        return self._health is not None and self._health.paused

    def notice(self) -> Problem | None:
        """What a person should know of a machine whose engine answers all the same."""
        session = self._machine.session
        latest = session.control.latest if session is not None else None
        if session is None or latest is None:
            return None
        return health.notice(self._machine.name, latest, time.monotonic() - session.control.heard)

    # -- starting again -----------------------------------------------------------------------

    async def _revive(self, problem: Problem) -> None:
        first = problem
        while isinstance(decision := self._supervision.ended(time.monotonic()), Again):
            count = f"attempt {decision.attempt} of {len(DELAYS)}"
            self._emit(
                EventKind.PROBLEM,
                problem.message,
                done=f"it is started again in {decision.delay:.0f} s ({count})",
                problem=problem,
            )
            hint = f"nothing to do: it is started again by itself ({count}); see: proa events"
            self.recovering = msgspec.structs.replace(problem, hint=hint)
            try:
                self._waits = True
                await asyncio.sleep(decision.delay)
                self._waits = False
                await self._machine.revive()
            except ProaError as error:
                problem = Problem.of(error)
                continue
            finally:
                self._waits = False
                self.recovering = None
            self._emit(EventKind.REPAIR, f"it runs again after: {first.message}", done="started again")
            return
        given_up = _given_up(self._machine.name, problem)
        self._machine.give_up(given_up)
        self._emit(
            EventKind.FAILED, given_up.message, done="it stays down until it is started", problem=given_up
        )

    # -- looking ------------------------------------------------------------------------------

    async def _watch(self, session: Session) -> None:
        """Look every few seconds until this run of the machine is over."""
        place = self._machine.paths.folder
        name, accelerator = self._machine.name, session.hypervisor.accelerator
        self._health = state = health.Health(name, accelerator, str(place))
        self._guest = None
        try:
            if not session.served.is_set():  # the guest was asked a moment ago, and has better things to do
                await _a_while(session)
            while self._machine.session is session and not session.hypervisor.ended.done():
                if not self._machine.busy:  # what a command does to it is no news
                    self._tell_news(session)
                    for action in state.look(await self._look(session)):
                        await self._carry_out(action, session)
                    if not session.engine_version and self._guest and self._guest.engine.state == "ready":
                        await self._machine.settle(session)
                await _a_while(session)
        finally:
            if self._health is state:
                self._health = None

    async def hangs(self, session: Session, say: Say) -> Problem | None:
        """What stays silent while somebody waits who wants it to answer; None as soon as all answers."""
        began, told = time.monotonic(), ""
        while True:
            look = await self._look(session)
            silence = health.silence(self._machine.name, look)
            if silence is None:
                return None
            left = health.patience(look, session.hypervisor.accelerator) - (look.now - began)
            if left <= 0 or session.hypervisor.ended.done():
                return silence
            if told != silence.message:
                told = silence.message
                say(silence.layer, f"{told}; it is ended if that lasts {left:.0f} s", None)
            await _a_while(session)

    async def _look(self, session: Session) -> health.Look:
        stall, hypervisor_answers, guest_answers = None, True, True
        try:
            stall = await session.hypervisor.stall()
        except ProaError as error:
            log.debug("%s: %s", self._machine.name, error)
            hypervisor_answers = False
        if stall is None and hypervisor_answers:
            guest_answers = await session.control.answers(health.INTERVAL * 2)
        return health.Look(
            now=time.monotonic(),
            hypervisor_answers=hypervisor_answers,
            guest_answers=guest_answers,
            stall=stall,
            room=free_disk(self._machine.paths.folder),
            clock_off=session.control.clock_off,
        )

    def _tell_news(self, session: Session) -> None:
        before, self._guest = self._guest, session.control.latest
        if self._guest is None or self._guest is before:
            return
        for said in health.news(self._machine.name, before, self._guest):
            self._emit(said.kind, said.message, done=said.done, problem=said.problem)

    async def _carry_out(self, action: health.Action, session: Session) -> None:
        match action:
            case health.Say(kind, message, done, problem):
                self._emit(kind, message, done=done, problem=problem)
            case health.GoOn():
                with contextlib.suppress(ProaError):
                    await session.hypervisor.resume()
            case health.SetClock():
                with contextlib.suppress(ProaError):
                    await session.control.set_time(time.time())
            case health.Restart(problem):
                await self._machine.end_hung(session, problem)


async def _a_while(session: Session) -> None:
    """The time between two looks, or less if the hypervisor ends."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(health.INTERVAL):
            await asyncio.shield(session.hypervisor.ended)


def _given_up(name: str, last: Problem) -> Problem:
    return Problem(
        code="machine-keeps-ending",
        message=f"the machine {name!r} ended again and again, and is not started any more",
        why=": ".join(part for part in (last.message, last.why) if part),
        hint=f"look at: proa logs {name} --source console; then: proa start {name}",
        layer=last.layer,
        log=last.log,
    )
