"""QEMU's memory images: device state through a descriptor, memory as a sparse copy or in the stream.

The sandbox forbids QEMU to start programs, so nothing goes through `exec:`. With memory in a shared
file (capability `x-ignore-shared`) the stream holds the devices alone.
"""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

from proa.drivers.base import RAM_FILE, STATE_FILE
from proa.drivers.qemu.monitor import Monitor
from proa.model.errors import ProaError
from proa.system.files import explain
from proa.system.sparse import copy_sparse

POLL = 0.005  # seconds between looks at a migration that takes 20 ms
SAVE_TIMEOUT = 300.0  # seconds; streamed memory on a slow disk
LOAD_TIMEOUT = 120.0
NO_LIMIT = 1 << 40  # bytes a second: QEMU's own limit is meant for networks
_NAME = "proa-state"


async def prepare(monitor: Monitor, *, shared: bool) -> None:
    """What both sides of a migration must agree on."""
    wanted = [{"capability": "x-ignore-shared", "state": shared}]
    await monitor.execute("migrate-set-capabilities", {"capabilities": wanted})
    await monitor.execute("migrate-set-parameters", {"max-bandwidth": NO_LIMIT})


async def save(monitor: Monitor, folder: Path, memory: int | None) -> None:
    """Write the paused guest into `folder`; `memory` is a descriptor of its shared memory, if it has one.

    Raises ProaError `memory-save-failed`, `disk-full`, `hypervisor-silent` …
    """
    try:
        await prepare(monitor, shared=memory is not None)
        copying = None
        if memory is not None:
            # The guest is paused: its memory and its devices can be written at the same time.
            copying = asyncio.ensure_future(asyncio.to_thread(_copy_out, memory, folder / RAM_FILE))  # noqa: TID251
        try:
            await _save_state(monitor, folder / STATE_FILE)
        finally:
            if copying is not None:
                await asyncio.wait({copying})
        if copying is not None:
            copying.result()
    except OSError as error:
        raise explain(error, f"save the memory of the machine in {folder}") from error


async def _save_state(monitor: Monitor, path: Path) -> None:
    fd = _create(path)
    try:
        await monitor.hand_over(_NAME, fd)
        await monitor.execute("migrate", {"uri": f"fd:{_NAME}"})
        await _until_done(monitor, SAVE_TIMEOUT, "save")
        await asyncio.to_thread(os.fsync, fd)
    finally:
        os.close(fd)


def _create(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _copy_out(memory: int, path: Path) -> None:
    fd = _create(path)
    try:
        copy_sparse(memory, fd)
        os.fsync(fd)
        if os.fstat(fd).st_size != os.fstat(memory).st_size:
            raise OSError(errno.EIO, "less was written than the machine's memory")
    finally:
        os.close(fd)


def copy_in(path: Path, memory: int) -> None:
    """Fill a new guest's memory from a saved one. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        if os.fstat(fd).st_size != os.fstat(memory).st_size:
            raise OSError(errno.EIO, f"{path} has another size than the machine's memory")
        copy_sparse(fd, memory)
    finally:
        os.close(fd)


async def load(monitor: Monitor, state_fd: int, *, shared: bool) -> None:
    """Load a saved state from a descriptor that QEMU inherited. Raises ProaError `memory-load-failed` …"""
    await prepare(monitor, shared=shared)
    await monitor.execute("migrate-incoming", {"uri": f"fd:{state_fd}"})
    await _until_done(monitor, LOAD_TIMEOUT, "load")


async def _until_done(monitor: Monitor, timeout: float, what: str) -> None:
    code, doing = f"memory-{what}-failed", f"QEMU could not {what} the machine's memory"
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        told = await monitor.execute("query-migrate")
        state = told.get("status") if isinstance(told, dict) else None
        if state == "completed":
            return
        if state in ("failed", "cancelled"):
            why = str(told.get("error-desc") or state) if isinstance(told, dict) else ""
            if "No space left" in why:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise ProaError(code, doing, why=why, layer="hypervisor")
        if asyncio.get_running_loop().time() > deadline:
            if what == "save":
                await monitor.execute("migrate_cancel")
            raise ProaError(code, doing, why=f"it took longer than {timeout:.0f} s", layer="hypervisor")
        await asyncio.sleep(POLL)
