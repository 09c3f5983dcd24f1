"""What the agent does around one machine: its engine socket at all times, its ports while it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from proa.agent.configure import Configurator
from proa.agent.unasked import UnaskedStart
from proa.drivers.base import Driver
from proa.engine.proxy import EngineProxy
from proa.images.store import ImageStore
from proa.link.stream import LinkStream
from proa.machine.machine import Machine
from proa.machine.session import Session
from proa.machine.store import MachineStore
from proa.model.errors import ProaError
from proa.model.events import Emit
from proa.model.machine import MachineState, MachineStatus, PublishedPort
from proa.model.problem import Problem
from proa.ports.engine_api import EngineApi
from proa.ports.forwarder import PortForwarder
from proa.ports.planner import Key
from proa.ports.watcher import PortWatcher
from proa.system.activation import Listeners
from proa.system.paths import Places
from proa.system.tasks import Tasks

log = logging.getLogger("proa.agent")


class Attendant:
    """One machine with its engine socket and published ports."""

    def __init__(
        self,
        name: str,
        places: Places,
        store: MachineStore,
        images: ImageStore,
        driver: Driver,
        *,
        emit: Emit,
        holder: Callable[[Key], str | None],
        listeners: Listeners,
    ) -> None:
        self.name = name
        self._listeners = listeners
        self.trouble: ProaError | None = None  # why its socket is not there
        self.machine = Machine(
            name,
            places=places,
            store=store,
            images=images,
            driver=driver,
            engine=EngineApi,
            on_up=self._up,
            on_down=self._down,
            emit=emit,
        )
        self._emit = emit
        self._holder = holder
        self.config = Configurator(self.machine, store, images, driver)
        self._tasks = Tasks(f"attendant {name}")
        self._unasked = UnaskedStart(self.machine, store, self._tasks)
        self._proxy = EngineProxy(self._open_engine, settled=self._ports_settled, machine=name)
        self._forwarder: PortForwarder | None = None
        self._watcher: PortWatcher | None = None

    async def open(self) -> None:
        """Adopt the machine if it runs, and answer on its engine socket."""
        self._unasked.note()
        await self.machine.adopt()
        await self._proxy.serve(self._listeners.at(self.machine.paths.engine_socket))

    async def close(self) -> None:
        """Let go: the machine goes on running."""
        await self._proxy.close()
        await self.machine.let_go()
        await self._tasks.close()

    def start_at_login(self) -> None:
        """Start it now, in the background, if it starts at login and has not yet."""
        if self.trouble is None:
            self._unasked.at_login()

    async def stop_until_used(self) -> None:
        """Stop the machine if it runs: the session ends, and what is left would be killed."""
        if self.machine.session is not None:
            await self._unasked.stop_until_used()

    async def _open_engine(self) -> LinkStream:
        """A stream to the engine; the first request starts a machine that is due, and waits for it."""
        await self._unasked.on_request()
        return await self.machine.open_stream("engine")

    async def status(self) -> MachineStatus:
        status = await self.machine.status()
        if self.trouble is not None and status.problem is None:
            status = msgspec.structs.replace(
                status, state=MachineState.BROKEN, problem=Problem.of(self.trouble)
            )
        return status

    def ports(self) -> tuple[PublishedPort, ...]:
        return self._forwarder.table() if self._forwarder else ()

    def holds(self, key: Key) -> str | None:
        """The container whose port this machine binds where `key` would have to be bound."""
        return self._forwarder.holds(key) if self._forwarder else None

    async def _up(self, session: Session) -> None:
        """The engine answers: bind what it publishes before anybody is told so."""
        if self._forwarder is not None:
            return
        self._forwarder = PortForwarder(self.name, session.pool.open, self._emit, self._holder)
        self._watcher = PortWatcher(
            EngineApi(lambda: session.pool.open("engine")), self._forwarder.apply, self._tasks
        )
        await self._watcher.settled()

    async def _down(self) -> None:
        forwarder, self._forwarder = self._forwarder, None
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            await watcher.close()
        if forwarder is not None:
            await forwarder.close()

    async def _ports_settled(self) -> None:
        if self._watcher is not None:
            await self._watcher.settled()
