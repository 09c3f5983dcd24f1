"""Taking over a hypervisor that outlived its agent, or ending it where that cannot be."""

from __future__ import annotations

import asyncio
import time

from proa.drivers.base import Driver, Hypervisor
from proa.model.errors import ProaError
from proa.model.events import Emit, EventKind
from proa.system.files import read_bytes
from proa.system.locks import FileLock
from proa.system.paths import MachinePaths

LOCK_TIMEOUT = 5.0  # seconds until a hypervisor that was asked to end has let go of its lock


async def take_over(driver: Driver, paths: MachinePaths, emit: Emit) -> tuple[Hypervisor, bytes] | None:
    """The hypervisor that holds the machine's lock, and its link's secret; None where it had to be ended."""
    hypervisor = await driver.adopt(paths.name, paths.runtime, paths.lock, paths.console_log)
    if hypervisor is None:
        emit(EventKind.REPAIR, "its hypervisor cannot be taken over", done="it is ended")
        await driver.end_stray(paths.name, paths.runtime, paths.lock)
        return None
    try:
        secret = read_bytes(paths.link_key)
        why = "an earlier start did not come to its end" if await hypervisor.is_paused() else ""
    except FileNotFoundError:
        why = "its link's key is gone"
    except ProaError as error:
        why = f"it cannot be taken over: {error}"
    if why:
        emit(EventKind.REPAIR, why, done="it is ended")
        await hypervisor.quit()
        await hypervisor.detach()
        return None
    emit(EventKind.STATE, f"taken over by a new agent, pid {hypervisor.pid}")
    return hypervisor, secret


async def take_lock(driver: Driver, paths: MachinePaths) -> FileLock | None:
    """The machine's lock; a hypervisor that an earlier agent lost is ended for it. None: a stranger's."""
    lock = FileLock.try_acquire(paths.lock)
    if lock is not None:
        return lock
    await driver.end_stray(paths.name, paths.runtime, paths.lock)
    deadline = time.monotonic() + LOCK_TIMEOUT
    while lock is None and time.monotonic() < deadline:
        lock = FileLock.try_acquire(paths.lock)
        if lock is None:
            await asyncio.sleep(0.05)
    return lock
