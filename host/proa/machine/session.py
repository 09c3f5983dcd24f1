"""One run of a machine: its hypervisor, its link, its control stream, from boot or adoption to the end."""

from __future__ import annotations

import logging

from proa.drivers.base import Hypervisor
from proa.link.control import Control
from proa.link.loopback import Loopback
from proa.link.pool import LinkPool
from proa.system.tasks import Tasks

log = logging.getLogger("proa.machine")


class Session:
    """What exists only while a hypervisor lives. `close` lets go of it; `hypervisor.quit` ends it."""

    def __init__(self, name: str, hypervisor: Hypervisor, secret: bytes) -> None:
        self.hypervisor = hypervisor
        self.secret = secret
        self.tasks = Tasks(f"machine {name}")
        self.pool = LinkPool(Loopback(*hypervisor.link_address), secret, self.tasks)
        self.control = Control(self.pool, self.tasks)
        self.engine_version = ""
        self.started_with = "cold"
        self.fingerprint: dict[str, str] = {}  # what a memory image of it depends on
        self.start_seconds: float | None = None

    async def close(self) -> None:
        await self.control.close()
        await self.pool.close()
        await self.tasks.close()
        await self.hypervisor.detach()
