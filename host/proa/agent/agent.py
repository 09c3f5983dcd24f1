"""The composition root: what the agent consists of, top to bottom."""

from __future__ import annotations

import asyncio
import logging

from proa.agent import at_login
from proa.agent.answers import Say
from proa.agent.attendant import Attendant
from proa.agent.journal import Journal
from proa.agent.server import ApiServer
from proa.agent.vacant import Vacancies
from proa.drivers.qemu.driver import QemuDriver
from proa.images.keys import Keyring
from proa.images.store import ImageStore
from proa.machine.host_checks import check_driver, check_sizes
from proa.machine.store import MachineStore
from proa.model.errors import ProaError
from proa.model.events import EventKind
from proa.model.machine import MachineOptions
from proa.model.names import DEFAULT_MACHINE, check_name
from proa.model.problem import Problem
from proa.ports.planner import Key
from proa.system import login
from proa.system.activation import Listeners
from proa.system.paths import Places

log = logging.getLogger("proa.agent")


class Agent:
    """All machines of one user, and the API in front of them."""

    def __init__(self, places: Places, listeners: Listeners | None = None) -> None:
        self.places = places
        self._listeners = Listeners() if listeners is None else listeners
        self._vacancies = Vacancies(places, self._listeners)
        self.store = MachineStore(places)
        self.images = ImageStore(places.images, Keyring(places.keys))
        self.driver = QemuDriver(places)
        self.journal = Journal(places.events)
        self._attendants: dict[str, Attendant] = {}
        # Held while a machine is made or deleted: who comes second sees what the first has done.
        self._gates: dict[str, asyncio.Lock] = {}
        self._server = ApiServer(self, places.agent_socket, self._listeners)

    async def open(self) -> None:
        """Heal what a crash left, adopt what runs, then answer."""
        for left in self.store.sweep():
            self.journal.emit_for("")(EventKind.REPAIR, f"{left} was left half-made", done="removed")
        # Side by side: a machine that cannot be taken over at once does not keep the others waiting.
        await asyncio.gather(*(self._attend(name) for name in self.store.names()))
        await self._vacancies.open(self._attendants)
        await self._server.open()
        for attendant in self._attendants.values():
            attendant.start_at_login()

    async def close(self) -> None:
        self.journal.close()
        await self._server.close()
        for attendant in list(self._attendants.values()):
            await attendant.close()
        self._attendants.clear()
        await self._vacancies.close()
        self._listeners.close()

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._attendants))

    def find(self, name: str) -> Attendant | None:
        return self._attendants.get(check_name(name))

    def get(self, name: str) -> Attendant:
        """The machine's attendant. Raises ProaError `machine-unknown`."""
        attendant = self.find(name)
        if attendant is None:
            known = ", ".join(self.names()) or "none yet"
            raise ProaError(
                "machine-unknown",
                f"there is no machine {name!r}",
                why=f"machines: {known}",
                hint=f"make and start it: proa start {name}",
            )
        return attendant

    async def make(self, name: str, options: MachineOptions) -> Attendant:
        """Make a machine that this host can run; nothing is left where it cannot. Raises ProaError."""
        async with self._gate(name):
            return await self._make(name, options)

    async def ensure(self, name: str, options: MachineOptions, say: Say) -> Attendant:
        """The machine's attendant; it is made where there is none, by one of those who ask at once."""
        async with self._gate(name):
            if (found := self.find(name)) is not None:
                return found
            say("machine", f"making the machine {name!r}", None)
            return await self._make(name, options)

    async def delete(self, name: str, say: Say) -> None:
        """Remove the machine with its data. Raises ProaError `machine-unknown`, also to who comes second."""
        if self._gate(name).locked():
            say("wait", f"waiting: {name!r} is being made or deleted", None)
        async with self._gate(name):
            attendant = self.get(name)
            starts_at_login = at_login.wants(self.store, name)
            await attendant.machine.delete(say)
            del self._attendants[name]
            await attendant.close()
            await self._listen_from_login(name, wanted=False)
            if starts_at_login:
                await self._no_start_at_login(name)

    async def _no_start_at_login(self, name: str) -> None:
        try:
            await asyncio.to_thread(at_login.without, self.store, name)
        except ProaError as error:
            log.warning("%s is gone, and the agent still starts at login: %s", name, error)

    async def stop_machines(self) -> None:
        """Stop what runs, in order; the next agent starts each when it is used."""
        await asyncio.gather(*(attendant.stop_until_used() for attendant in self._attendants.values()))

    async def _listen_from_login(self, name: str, *, wanted: bool) -> None:
        """Where systemd listens for us, it shall for this machine too; for the default one it always does."""
        if not self._listeners or name == DEFAULT_MACHINE:
            return
        try:
            await asyncio.to_thread(login.listen_for, name, wanted=wanted)
        except ProaError as error:
            log.warning("%s: its engine socket at the next login: %s", name, error)

    def _gate(self, name: str) -> asyncio.Lock:
        return self._gates.setdefault(check_name(name), asyncio.Lock())

    async def _make(self, name: str, options: MachineOptions) -> Attendant:
        config = self.store.plan(name, options)
        check_driver(config.driver, self.driver)
        check_sizes(config)
        self.store.create(config)
        self.journal.emit_for(name)(EventKind.STATE, "it was made")
        attendant = await self._attend(name)
        await self._listen_from_login(name, wanted=True)
        return attendant

    def _holder(self, key: Key) -> str | None:
        """Who of our own holds a port of the host."""
        for name, attendant in self._attendants.items():
            if (container := attendant.holds(key)) is not None:
                return f"the container {container!r} of the machine {name!r}"
        return None

    async def _attend(self, name: str) -> Attendant:
        emit = self.journal.emit_for(name)
        attendant = Attendant(
            name,
            self.places,
            self.store,
            self.images,
            self.driver,
            emit=emit,
            holder=self._holder,
            listeners=self._listeners,
        )
        self._attendants[name] = attendant
        await self._vacancies.fill(name)
        try:
            await attendant.open()
        except ProaError as error:
            # One machine that cannot be attended to (its socket's place is taken, say) is no reason
            # to leave the others alone; `proa status` shows what is wrong with it.
            emit(EventKind.PROBLEM, "it cannot be attended to", problem=Problem.of(error))
            attendant.trouble = error
        return attendant
