"""What the agent does around one machine: its engine socket at all times, its ports while it runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from proa.agent.configure import Configurator
from proa.agent.share_rules import GuestView, ShareRules
from proa.agent.unasked import UnaskedStart
from proa.drivers.base import Driver
from proa.engine.mounts import HostMount, Target
from proa.engine.proxy import EngineProxy
from proa.images.store import ImageStore
from proa.link.stream import LinkStream
from proa.machine.first_use import LOOK, FirstUse
from proa.machine.machine import Machine
from proa.machine.session import Session
from proa.machine.sleep.clock import ClockWatch
from proa.machine.sleep.idle import IdleClock, Use
from proa.machine.sleep.images import SavedPort
from proa.machine.store import MachineStore
from proa.model.api import SharesStatus, SlowRequest
from proa.model.errors import ProaError
from proa.model.events import Emit, EventKind
from proa.model.host_path import BadPath
from proa.model.machine import MachineState, MachineStatus, PublishedPort
from proa.model.problem import Problem
from proa.model.sizes import parse_duration
from proa.ports.engine_api import EngineApi
from proa.ports.forwarder import PortForwarder
from proa.ports.planner import Binding, Key
from proa.ports.watcher import PortWatcher
from proa.shares.host import ShareHost
from proa.system.activation import Listeners
from proa.system.paths import Places
from proa.system.tasks import Tasks

log = logging.getLogger("proa.agent")

IDLE_LOOK = 5.0  # seconds between looks at a machine's use
SHARES_TIMEOUT = 30.0  # seconds that a container waits for this computer's folders
CLOCK_LOOK = 2.0  # seconds between looks at the host's clocks


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
            on_asleep=self._asleep,
            ports=self._saved_ports,
            on_link=self._linked,
        )
        paths = self.machine.paths
        self._rules = ShareRules(places, self.machine.config)
        self.shares = ShareHost(name, paths.shares, paths.shares_log, self._rules.shared)
        self._emit = emit
        self._holder = holder
        self.config = Configurator(self.machine, store, images, driver)
        self._tasks = Tasks(f"attendant {name}")
        self._unasked = UnaskedStart(self.machine, store, self._tasks)
        self._proxy = EngineProxy(
            self._open_engine,
            settled=self._ports_settled,
            machine=name,
            asleep=self._falls_asleep,
            share=self._share,
        )
        self._forwarder: PortForwarder | None = None
        self._watcher: PortWatcher | None = None
        self._keepers: list[asyncio.Task[None]] = []  # what is done while it runs

    async def open(self) -> None:
        """Adopt the machine if it runs, and answer on its engine socket."""
        self._unasked.note()
        await self.machine.adopt()
        await self._hold_ports()
        await self._proxy.serve(self._listeners.at(self.machine.paths.engine_socket))

    async def close(self) -> None:
        """Let go: the machine goes on running."""
        await self._proxy.close()
        await self.machine.let_go()
        await self._down()  # the ports of one that sleeps
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
        return await self.machine.open_stream("engine", by="a docker request")

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

    def _linked(self, session: Session, fresh: bool) -> None:
        """The guest can be spoken to: its mount of this computer's folders is answered."""
        self.shares.begin(fresh=fresh)

        async def keep() -> None:
            if not session.goes_on:  # whoever has a file open waits for it
                await session.served.wait()
            await self.shares.keep(session.pool)

        session.tasks.supervise(keep, name="shares")

    async def shares_status(self) -> SharesStatus:
        """Raises ProaError."""
        session = self.machine.session
        if session is not None and not session.served.is_set():
            session.served.set()
            await self.shares.ready(SHARES_TIMEOUT)
        counts = await self.shares.status()
        slowest = counts.get("slowest")
        return SharesStatus(
            folders=await asyncio.to_thread(self._rules.folders, counts.get("known", {})),
            mounted=self.shares.mounted.is_set(),
            known=counts.get("nodes", 0),
            open=counts.get("open", 0),
            asked=counts.get("asked", 0),
            rate=counts.get("rate", 0.0),
            slowest=SlowRequest(operation=slowest[0], seconds=slowest[1]) if slowest else None,
            watches=counts.get("watches", 0),
            events=counts.get("events", 0),
            confined=counts.get("confined", False),
            problem=counts.get("problem", ""),
        )

    async def _share(self, wanted: Sequence[HostMount]) -> dict[str, Target]:
        """Have host paths ready in the guest. Raises NotShared, ProaError."""
        targets = await asyncio.to_thread(self._rules.targets, wanted)
        await self._shares_ready()
        return targets

    async def _shares_ready(self) -> None:
        (await self._open_engine()).abort()  # the machine may sleep
        if self.machine.session is not None:
            self.machine.session.served.set()
        await self.shares.ready(SHARES_TIMEOUT)
        await self.shares.refresh()

    async def seen_from_guest(self, cwd: str, home: str) -> GuestView:
        """What a command in the guest sees of this computer, ready for it. Raises ProaError."""
        try:
            view = await asyncio.to_thread(self._rules.view, cwd, home)
        except BadPath as error:
            raise ProaError("bad-home", f"{home!r} is no home folder", why=str(error), usage=True) from error
        await self._shares_ready()
        return view

    def engine_client(self) -> asyncio.Protocol:
        """What serves a connection as the engine socket would."""
        return self._proxy.client()

    async def _up(self, session: Session) -> None:
        """The engine answers: bind what it publishes before anybody is told so."""
        if self._watcher is not None:
            return
        held = self._forwarder is not None  # those of a suspended one are bound all the time
        self._forwarder = self._forwarder or self._new_forwarder()
        self._watcher = PortWatcher(
            EngineApi(lambda: session.pool.open("engine")),
            self._forwarder.apply,
            self._tasks,
            begin=session.served.wait,
        )
        if session.brought_back or (session.goes_on and not held):
            await self._watcher.settled()
        self._proxy.awake(session.slept_at or time.time())
        self._keepers = [
            self._tasks.start(self._serve_first(session), name="first use"),
            self._tasks.start(self._save_when_idle(), name="idle saver"),
            self._tasks.start(self._mend_after_jumps(session), name="clock jumps"),
        ]

    async def _serve_first(self, session: Session) -> None:
        """Let what nobody waits for begin once who started or woke the machine is served."""
        if not (self._proxy.in_use() or session.awaited):
            # For the request that comes next: the guest has nothing to do until then.
            session.pool.park(1, again=False)
        now = asyncio.get_running_loop().time
        first = FirstUse(now())
        while not session.served.is_set():
            await asyncio.sleep(LOOK)
            if first.is_served(now(), busy=self._proxy.in_use(), last=self._proxy.last_use):
                session.served.set()
        session.pool.park()

    async def _save_when_idle(self) -> None:
        """Suspend the machine after its time without use; what cannot be suspended goes on running."""
        clock = IdleClock()
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(IDLE_LOOK)
            watcher = self._watcher
            if watcher is None:
                continue
            config = self.machine.config()  # the settings may change at any time
            clock.set(
                parse_duration(config.setting("idle.after")),
                with_containers=config.setting("idle.with_containers"),
            )
            busy = self._proxy.in_use() or self.machine.streams.any()
            if clock.look(now(), Use(busy, self._proxy.last_use, watcher.containers)):
                log.info("%s: unused, it is suspended", self.name)
                try:
                    await self.machine.suspend(lambda step, message, fraction: None)
                except ProaError as error:
                    log.warning("%s: unused, but it cannot be suspended: %s", self.name, error)
                return

    async def _mend_after_jumps(self, session: Session) -> None:
        """The host slept, or its clock was set: the guest's clock, the link and the ports are put right."""
        watch = ClockWatch()
        while True:
            jump = watch.look(time.time(), time.monotonic())
            if jump:
                self._emit(
                    EventKind.REPAIR,
                    f"this computer slept, or its clock was set: {jump:.0f} s",
                    done="the guest's clock, the link and the ports are put right",
                )
                await self._mend(session)
            await asyncio.sleep(CLOCK_LOOK)

    async def _mend(self, session: Session) -> None:
        session.pool.renew(session.secret)  # what was parked may have died unseen
        try:
            await session.control.set_time(time.time())
        except ProaError as error:
            log.warning("%s: its clock cannot be set: %s", self.name, error)
        if self._watcher is not None:
            await self._watcher.settled()

    def _new_forwarder(self) -> PortForwarder:
        async def open_stream(target: str) -> LinkStream:
            return await self.machine.open_stream(target, by="a connection to a published port")

        return PortForwarder(self.name, open_stream, self._emit, self._holder)

    async def _asleep(self) -> None:
        """It was suspended: its ports stay bound, and the first connection wakes it."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            await watcher.close()
        self._end_keepers()

    def _end_keepers(self) -> None:
        keepers, self._keepers = self._keepers, []
        for keeper in keepers:
            if keeper is not asyncio.current_task():  # the idle saver itself put it to sleep
                keeper.cancel()

    def _falls_asleep(self) -> bool:
        return self.machine.is_suspending or self.machine.suspended

    async def _hold_ports(self) -> None:
        """Bind the ports of a machine that was suspended by an earlier agent."""
        asleep = self.machine.sleeper.asleep() if self.machine.suspended else None
        if asleep is not None and self._forwarder is None:
            self._forwarder = self._new_forwarder()
            await self._forwarder.apply(from_saved(asleep.ports))

    def _saved_ports(self) -> tuple[SavedPort, ...]:
        return to_saved(self._forwarder.bindings()) if self._forwarder else ()

    async def _down(self) -> None:
        self._proxy.forget()
        self.shares.forget()
        forwarder, self._forwarder = self._forwarder, None
        watcher, self._watcher = self._watcher, None
        self._end_keepers()
        if watcher is not None:
            await watcher.close()
        if forwarder is not None:
            await forwarder.close()

    async def _ports_settled(self) -> None:
        if self._watcher is not None:
            await self._watcher.settled()


def to_saved(bindings: Iterable[Binding]) -> tuple[SavedPort, ...]:
    """Bindings as a memory image keeps them."""
    return tuple(
        SavedPort(
            host_ip=binding.key.host_ip,
            host_port=binding.key.host_port,
            protocol=binding.key.protocol,
            container=binding.container,
            container_id=binding.container_id,
            container_port=binding.container_port,
            targets=binding.targets,
        )
        for binding in bindings
    )


def from_saved(ports: Iterable[SavedPort]) -> dict[Key, Binding]:
    """What `to_saved` kept."""
    found = {}
    for port in ports:
        key = Key(port.host_ip, port.host_port, port.protocol)
        found[key] = Binding(key, port.container, port.container_id, port.container_port, port.targets)
    return found
