"""What one machine is, from facts: looking never raises and changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from proa.link.stream import LinkStream
from proa.machine import readiness
from proa.machine.guardian import Guardian
from proa.machine.lifecycle import Facts, derive
from proa.machine.memo import Memo
from proa.machine.store import MachineStore
from proa.model.errors import ProaError
from proa.model.machine import EngineInfo, MachineConfig, MachineState, MachineStatus
from proa.model.problem import Problem
from proa.system.processes import boot_id

if TYPE_CHECKING:
    from proa.machine.machine import Machine

PING_TIMEOUT = 2.0  # seconds; an engine that needs longer to answer a ping is not well


class Engine(Protocol):
    """What a machine asks of its engine."""

    async def version(self) -> str:
        """Raises ProaError where it does not answer."""

    async def ping(self) -> None:
        """Raises ProaError where it does not answer."""


AskEngine = Callable[[Callable[[], Awaitable[LinkStream]]], Engine]


class View:
    """Belongs to its machine."""

    def __init__(
        self, machine: Machine, store: MachineStore, memo: Memo, guardian: Guardian, engine: AskEngine
    ) -> None:
        self._machine = machine
        self._store = store
        self._memo = memo
        self._guardian = guardian
        self._engine = engine

    async def status(self, *, answered: bool = False) -> MachineStatus:
        """`answered`: its engine has just done so, and need not be asked."""
        machine = self._machine
        config, problem = self.config()
        answers = machine.operation is None and (answered or await self.ping())
        state, why = derive(machine.name, self._facts(config_problem=problem, engine_answers=answers))
        session = machine.session
        asleep = machine.sleeper.asleep() if session is None else None
        version = session.engine_version if session else asleep.engine_version if asleep else ""
        return MachineStatus(
            name=machine.name,
            state=state,
            problem=why,
            driver=config.driver,
            accelerator=session.hypervisor.accelerator if session else "",
            engine=EngineInfo(version=version, socket=str(machine.paths.engine_socket)),
            started_with=session.started_with if session else "",
            start_seconds=session.start_seconds if session else None,
            cpus=config.cpus,
            memory=config.memory,
            disk=config.disk,
            pid=session.hypervisor.pid if session else None,
            asleep_since=asleep.saved if asleep and state is MachineState.SUSPENDED else None,
            woken_by=self._memo.record.woken_by,
        )

    def state(self) -> tuple[MachineState, Problem | None]:
        """Of a machine that does not run: nobody asks its engine."""
        return derive(self._machine.name, self._facts())

    def config(self) -> tuple[MachineConfig, Problem | None]:
        """What `machine.toml` says; nothing, and why, where it cannot be read."""
        name = self._machine.name
        try:
            return self._store.load(name), None
        except ProaError as error:
            return MachineConfig(name=name, cpus=0, memory=0, disk=0, driver=""), Problem.of(error)

    async def ping(self) -> bool:
        """True if the engine answers now."""
        session = self._machine.session
        if session is None:
            return False
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                await self._engine(lambda: session.pool.open("engine")).ping()
        except (ProaError, TimeoutError):
            return False
        return True

    def _facts(self, *, config_problem: Problem | None = None, engine_answers: bool = False) -> Facts:
        machine, record = self._machine, self._memo.record
        session = machine.session
        try:
            alive = session is not None or self._store.is_alive(machine.name)
        except ProaError as error:
            alive, config_problem = False, config_problem or Problem.of(error)
        return Facts(
            exists=self._store.exists(machine.name),
            operation=machine.operation,
            alive=alive,
            suspended=machine.suspended,
            engine_answers=engine_answers,
            config_problem=config_problem,
            health_problem=(self._guardian.problem or self._health()) if session else None,
            notice=self._guardian.notice(),
            recovering=self._guardian.recovering,
            wanted_running=record.intent == "running" and record.boot_id == boot_id(),
            last_problem=record.problem,
        )

    def _health(self) -> Problem | None:
        """What the guest's last word says is wrong, where it says so."""
        session = self._machine.session
        latest = session.control.latest if session else None
        error = readiness.hopeless(latest) if latest else None
        return Problem.of(error) if error else None
