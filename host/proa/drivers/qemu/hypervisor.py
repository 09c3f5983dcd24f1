"""One running QEMU: its process, monitor and console."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from proa.drivers.base import ExitReason, Stall
from proa.drivers.qemu import migration
from proa.drivers.qemu.console import ConsoleReader
from proa.drivers.qemu.monitor import Monitor
from proa.model.errors import ProaError
from proa.system.memory import resident_memory
from proa.system.processes import ProcessIdentity, kill, wait_end
from proa.system.sparse import allocated
from proa.system.tasks import Tasks

FINALIZED_TIMEOUT = 5.0  # seconds that QEMU may take to be done with a save that it has told the end of
IO_ERROR = "io-error"  # qapi/run-state.json: the last write failed, and the guest was paused for it


class QemuProcess:
    """Implements proa.drivers.base.Hypervisor."""

    def __init__(
        self,
        identity: ProcessIdentity,
        monitor: Monitor,
        console: ConsoleReader,
        accelerator: str,
        link_port: int,
        memory: int | None = None,
    ) -> None:
        """`memory` is a descriptor of the guest's shared memory, ours to close."""
        self._identity = identity
        self._monitor = monitor
        self._console = console
        self._accelerator = accelerator
        self._link_port = link_port
        self._memory = memory
        self._tasks = Tasks(f"qemu {identity.pid}")
        self.ended: asyncio.Future[ExitReason] = asyncio.get_running_loop().create_future()
        self._tasks.start(self._watch(), name="end")

    @property
    def pid(self) -> int:
        return self._identity.pid

    @property
    def accelerator(self) -> str:
        return self._accelerator

    @property
    def link_address(self) -> tuple[str, int]:
        return "127.0.0.1", self._link_port

    async def _watch(self) -> None:
        await wait_end(self._identity)
        # The console's last words are read before anybody is told that it is over.
        await asyncio.wait({self._console.closed}, timeout=1.0)
        if not self.ended.done():
            self.ended.set_result(self._monitor.reason or ExitReason.DIED)

    async def is_paused(self) -> bool:
        status = await self._monitor.execute("query-status")
        # One that cannot write its disk is paused too, but its start came to an end long ago.
        return (
            isinstance(status, dict)
            and status.get("running") is not True
            and status.get("status") != IO_ERROR
        )

    async def stall(self) -> Stall | None:
        status = await self._monitor.execute("query-status")
        if not isinstance(status, dict) or status.get("status") != IO_ERROR:
            return None
        blocks = await self._monitor.execute("query-block")
        told = (
            [block.get("io-status") for block in blocks if isinstance(block, dict)]
            if isinstance(blocks, list)
            else []
        )
        return Stall.NO_SPACE if "nospace" in told else Stall.FAILED

    async def has_guest(self) -> bool:
        status = await self._monitor.execute("query-status")
        return isinstance(status, dict) and status.get("status") not in ("prelaunch", "inmigrate")

    async def resume(self) -> None:
        deadline = time.monotonic() + FINALIZED_TIMEOUT
        while True:
            try:
                await self._monitor.execute("cont")
                return
            except ProaError as error:
                # A save that has just ended is not over for QEMU until a step of its main loop later.
                if "not finalized" not in error.why or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.02)

    async def pause(self) -> None:
        await self._monitor.execute("stop")

    def memory_in_use(self) -> int:
        return resident_memory(self.pid) if self._memory is None else allocated(self._memory)

    async def load(self, state: int, *, shared: bool) -> None:
        """Take the state from a descriptor of its file. Raises ProaError."""
        try:
            await migration.load(self._monitor, state, shared=shared)
        except ProaError as error:
            if error.code != "memory-load-failed":
                raise ProaError(
                    "memory-load-failed",
                    "QEMU could not load the machine's memory",
                    why=str(error),
                    layer="hypervisor",
                ) from error
            raise

    async def save(self, folder: Path) -> None:
        await migration.save(self._monitor, folder, self._memory)

    async def quit(self, timeout: float = 10.0) -> None:
        """Asks, then kills what is proved to be this QEMU. Safe to call twice."""
        if not self.ended.done():
            try:
                await self._monitor.execute("quit")
                await asyncio.wait({self.ended}, timeout=timeout)
            except ProaError:
                pass  # it does not answer: by force then
        if not self.ended.done():
            kill(self._identity, force=True)
            await asyncio.wait({self.ended}, timeout=timeout)

    async def detach(self) -> None:
        await self._tasks.close()
        self._console.close()
        if self._memory is not None:
            os.close(self._memory)
            self._memory = None
        await self._monitor.close()
