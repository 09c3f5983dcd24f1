"""The composition root: what the agent consists of, top to bottom."""

from __future__ import annotations

import logging

from proa.agent.attendant import Attendant
from proa.agent.server import ApiServer
from proa.drivers.qemu.driver import QemuDriver
from proa.images.keys import Keyring
from proa.images.store import ImageStore
from proa.machine.host_checks import check_sizes
from proa.machine.store import MachineStore
from proa.model.errors import ProaError
from proa.model.machine import MachineOptions
from proa.model.names import check_name
from proa.system.paths import Places

log = logging.getLogger("proa.agent")


class Agent:
    """All machines of one user, and the API in front of them."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.store = MachineStore(places)
        self.images = ImageStore(places.images, Keyring(places.keys))
        self.driver = QemuDriver(places)
        self._attendants: dict[str, Attendant] = {}
        self._server = ApiServer(self, places.agent_socket)

    async def open(self) -> None:
        """Heal what a crash left, adopt what runs, then answer."""
        self.store.sweep()
        for name in self.store.names():
            await self._attend(name)
        await self._server.open()

    async def close(self) -> None:
        await self._server.close()
        for attendant in list(self._attendants.values()):
            await attendant.close()
        self._attendants.clear()

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
        config = self.store.plan(name, options)
        if config.driver != self.driver.name:
            raise ProaError(
                "driver-unknown",
                f"there is no driver {config.driver!r}",
                why=f"drivers: {self.driver.name}",
                usage=True,
            )
        check_sizes(config)
        self.store.create(config)
        return await self._attend(name)

    async def forget(self, name: str) -> None:
        attendant = self._attendants.pop(name, None)
        if attendant is not None:
            await attendant.close()

    async def _attend(self, name: str) -> Attendant:
        attendant = Attendant(name, self.places, self.store, self.images, self.driver)
        self._attendants[name] = attendant
        try:
            await attendant.open()
        except ProaError as error:
            # One machine that cannot be attended to (its socket's place is taken, say) is no reason
            # to leave the others alone; `proa status` shows what is wrong with it.
            log.error("%s: %s", name, error)
            attendant.trouble = error
        return attendant
