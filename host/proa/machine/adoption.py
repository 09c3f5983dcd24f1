"""Taking over a hypervisor that outlived its agent, or ending it where that cannot be."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from proa.drivers.base import Driver, Hypervisor
from proa.machine.lifecycle import BOUNDS
from proa.machine.session import Session
from proa.machine.sleep.images import ImageFolder
from proa.machine.sleep.order import Left, Step, after_crash
from proa.machine.sleep.sleeper import mend_guest, proved_secret, thaw_containers
from proa.model.errors import ProaError
from proa.model.events import Emit, EventKind
from proa.system.locks import FileLock
from proa.system.paths import MachinePaths

log = logging.getLogger("proa.machine")

LOCK_TIMEOUT = 5.0  # seconds until a hypervisor that was asked to end has let go of its lock


@dataclass(frozen=True)
class TakenOver:
    hypervisor: Hypervisor
    secret: bytes  # the link's
    todo: tuple[Step, ...]  # what is left to be mended, once its guest answers


async def take_over(driver: Driver, paths: MachinePaths, images: ImageFolder, emit: Emit) -> TakenOver | None:
    """The hypervisor that holds the machine's lock; None where it had to be ended.

    What an agent that died in the middle of a save or a restore left is put right as far as that needs no
    word of the guest.
    """
    hypervisor = await driver.adopt(paths.name, paths.runtime, paths.lock, paths.console_log)
    if hypervisor is None:
        emit(EventKind.REPAIR, "its hypervisor cannot be taken over", done="it is ended")
        await driver.end_stray(paths.name, paths.runtime, paths.lock)
        return None
    try:
        todo = after_crash(await _left(hypervisor, images))
        if Step.END not in todo:
            if Step.DISCARD in todo:
                await asyncio.to_thread(images.drop)
            if Step.RUN in todo or Step.RESUME in todo:
                await hypervisor.resume()
            secret = await proved_secret(paths.name, hypervisor, paths)
            if todo != (Step.THAW,):
                log.warning("%s: an agent died in the middle: %s", paths.name, ", ".join(todo))
            emit(EventKind.STATE, f"taken over by a new agent, pid {hypervisor.pid}")
            return TakenOver(hypervisor, secret, todo)
        why = "an earlier start or stop did not come to its end"
    except FileNotFoundError:
        why = "its link's key is gone"
    except ProaError as error:
        why = f"it cannot be taken over: {error}"
    emit(EventKind.REPAIR, why, done="it is ended")
    await hypervisor.quit()
    await hypervisor.detach()
    return None


async def _left(hypervisor: Hypervisor, images: ImageFolder) -> Left:
    return Left(
        alive=True,
        paused=await hypervisor.is_paused(),
        has_guest=await hypervisor.has_guest(),
        ready=images.exists(),
        consumed=images.used.exists(),
    )


async def mend(session: Session, todo: tuple[Step, ...], paths: MachinePaths, images: ImageFolder) -> None:
    """What needs the guest's word: an agent that died may have left containers frozen, or a used image.

    Raises ProaError.
    """
    if Step.MEND in todo:
        await mend_guest(session, paths, everywhere=True)
    if Step.THAW not in todo:
        return
    bound = BOUNDS["guest-agent"].seconds(session.hypervisor.accelerator)
    try:
        await session.control.wait_until(lambda status: True, bound)
    except TimeoutError:
        return  # readiness says so, with its layer
    if session.control.can_sleep:  # else it is one of an earlier Proa, which nobody froze
        await thaw_containers(session)
    await asyncio.to_thread(images.sweep)


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
