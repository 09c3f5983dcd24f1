"""One run of a machine: its hypervisor, its link, its control stream, from boot or adoption to the end."""

from __future__ import annotations

import asyncio
import logging

from proa.drivers.base import Hypervisor
from proa.link.control import Control
from proa.link.loopback import Loopback
from proa.link.pool import PARKED, LinkPool
from proa.machine.lifecycle import Bound
from proa.model.errors import ProaError
from proa.system.tasks import Tasks

log = logging.getLogger("proa.machine")

# A graceful power-off lets containers end (10 s by Docker's own default) and flushes the disk.
POWER_OFF_TIMEOUT = Bound(hardware=45, emulated=90)


class Session:
    """What exists only while a hypervisor lives. `close` lets go of it; `hypervisor.quit` ends it."""

    def __init__(self, name: str, hypervisor: Hypervisor, secret: bytes, parked: int = PARKED) -> None:
        """`parked` streams are kept ready; few while the guest has better things to do."""
        self._name = name
        self.hypervisor = hypervisor
        self.secret = secret
        self.tasks = Tasks(f"machine {name}")
        self.pool = LinkPool(Loopback(*hypervisor.link_address), secret, self.tasks, parked)
        self.control = Control(self.pool, self.tasks)
        self.engine_version = ""
        self.engine_answered = False  # since it was restored: nobody need ask it again to say that it runs
        self.started_with = "cold"
        self.slept_at: float | None = None  # Unix time of the suspend that it was woken from
        self.brought_back = True  # containers were started with it, so that ports may have to be bound
        self.awaited = False  # somebody's request has woken it, and opens a stream of its own
        self.goes_on = False  # containers were restored with it, which may have files of shares open
        # Set once who waited for it is served: what nobody waits for may take its processor now.
        self.served = asyncio.Event()
        self.served.set()
        self.fingerprint: dict[str, str] = {}  # what a memory image of it depends on
        self.start_seconds: float | None = None

    def renew(self, secret: bytes) -> None:
        """The link's secret is another from now on."""
        self.secret = secret
        self.pool.renew(secret)

    async def power_off(self) -> None:
        """Ask the guest to end and wait for it; whatever it answers, returns when the bound is over."""
        bound = POWER_OFF_TIMEOUT.seconds(self.hypervisor.accelerator)
        try:
            async with asyncio.timeout(bound):
                await self.control.poweroff()
                await asyncio.shield(self.hypervisor.ended)
        except TimeoutError:
            log.warning("%s: did not power off in time", self._name)
        except ProaError as error:
            log.warning("%s: cannot be asked to power off: %s", self._name, error)

    async def close(self) -> None:
        await self.control.close()
        await self.pool.close()
        await self.tasks.close()
        await self.hypervisor.detach()
