"""QEMU's memory images: device state through a descriptor, memory as a sparse copy or with the state.

The sandbox forbids QEMU to start programs, so nothing goes through `exec:`. With memory in a shared
file (capability `x-ignore-shared`) the state holds the devices alone. Else the memory is in it: page by
page at its own place, with holes (capability `mapped-ram`, QEMU 9.0), or as a stream where QEMU is older.
360 MiB in use, QEMU 10.0: loaded in 0.6 s from the one and in 6.5 s from the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

from proa.drivers.base import RAM_FILE, STATE_FILE
from proa.drivers.qemu.monitor import Monitor
from proa.model.errors import ProaError
from proa.system.files import explain
from proa.system.sparse import copy_data, copy_sparse

POLL = 0.005  # seconds between looks at a migration that takes 20 ms
SAVE_TIMEOUT = 300.0  # seconds; streamed memory on a slow disk
LOAD_TIMEOUT = 120.0
NO_LIMIT = 1 << 40  # bytes a second: QEMU's own limit is meant for networks
_NAME = "proa-state"


async def prepare(monitor: Monitor, *, shared: bool) -> bool:
    """What both sides of a migration must agree on; whether the state is a file with `mapped-ram`'s format.

    With memory in a shared file there are no pages to map, yet a QEMU that knows the capability wants a
    plain file to be named as one: `fd:` is for sockets from 9.1 on.
    """
    told = await monitor.execute("query-migrate-capabilities")
    known = (
        [entry.get("capability") for entry in told if isinstance(entry, dict)]
        if isinstance(told, list)
        else []
    )
    wanted = [{"capability": "x-ignore-shared", "state": shared}]
    if as_file := "mapped-ram" in known:
        wanted.append({"capability": "mapped-ram", "state": not shared})
    await monitor.execute("migrate-set-capabilities", {"capabilities": wanted})
    await monitor.execute("migrate-set-parameters", {"max-bandwidth": NO_LIMIT})
    return as_file


@contextlib.asynccontextmanager
async def _state_of(monitor: Monitor, fd: int, *, as_file: bool) -> AsyncIterator[str]:
    """The URI by which QEMU reads or writes the state in `fd`, while the context lasts."""
    if not as_file:
        await monitor.hand_over(_NAME, fd)
        yield f"fd:{_NAME}"
        return
    fdset = await monitor.lend(fd)
    try:
        yield f"file:/dev/fdset/{fdset}"
    finally:
        with contextlib.suppress(ProaError):  # it is over, and the descriptor goes with QEMU at the latest
            await monitor.take_back(fdset)


async def save(monitor: Monitor, folder: Path, memory: int | None) -> None:
    """Write the paused guest into `folder`; `memory` is a descriptor of its shared memory, if it has one.

    Raises ProaError `memory-save-failed`, `disk-full`, `hypervisor-silent` …
    """
    try:
        as_file = await prepare(monitor, shared=memory is not None)
        copying = None
        if memory is not None:
            # The guest is paused: its memory and its devices can be written at the same time.
            copying = asyncio.ensure_future(asyncio.to_thread(_copy_out, memory, folder / RAM_FILE))  # noqa: TID251
        try:
            await _save_state(monitor, folder / STATE_FILE, as_file=as_file)
        finally:
            failed = None
            if copying is not None:
                await asyncio.wait({copying})
                failed = copying.exception()
        if failed is not None:
            raise failed
    except ProaError as error:
        if error.code != "hypervisor-refused":
            raise
        raise ProaError(
            "memory-save-failed",
            "QEMU could not save the machine's memory",
            why=error.why,
            layer="hypervisor",
        ) from error
    except OSError as error:
        raise explain(error, f"save the memory of the machine in {folder}") from error


async def _save_state(monitor: Monitor, path: Path, *, as_file: bool) -> None:
    fd = _create(path)
    try:
        async with _state_of(monitor, fd, as_file=as_file) as uri:
            await monitor.execute("migrate", {"uri": uri})
            await _until_done(monitor, SAVE_TIMEOUT, "save")
        await asyncio.to_thread(os.fsync, fd)
    finally:
        os.close(fd)


def _create(path: Path) -> int:
    # Not to be read: QEMU takes a descriptor of a set only with just the rights that it needs.
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)


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
        copy_data(fd, memory)
    finally:
        os.close(fd)


async def load(monitor: Monitor, state_fd: int, *, shared: bool) -> None:
    """Load a saved state from a descriptor. Raises ProaError `memory-load-failed` …"""
    as_file = await prepare(monitor, shared=shared)
    async with _state_of(monitor, state_fd, as_file=as_file) as uri:
        await monitor.execute("migrate-incoming", {"uri": uri})
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
