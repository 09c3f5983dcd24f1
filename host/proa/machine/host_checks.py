"""What the host must have for a machine, checked before anything is made or started."""

from __future__ import annotations

import os

from proa.drivers.base import Driver
from proa.model.errors import ProaError
from proa.model.machine import MachineConfig
from proa.model.sizes import GIB, MIB, show_size
from proa.system.memory import free_disk, total_memory
from proa.system.paths import Places

LEAST_MEMORY = 512 * MIB  # below that dockerd and containerd do not come up
LEAST_DISK = 1 * GIB
# A start writes logs, a fresh file system and the welcome image; less than this is no room to work in.
LEAST_FREE = 256 * MIB


def check_sizes(config: MachineConfig) -> None:
    """Raise ProaError `memory-too-large`, `memory-too-small`, `disk-too-small` or `too-many-cpus`."""
    memory, cpus = total_memory(), os.cpu_count() or 1
    if config.memory > memory:
        raise ProaError(
            "memory-too-large",
            f"{config.name!r} cannot have {show_size(config.memory)} of memory",
            why=f"this computer has {memory / GIB:.1f} GiB in all",
            hint="choose less, half of it for example (proa config set memory, or proa create --memory)",
            usage=True,
        )
    if config.memory < LEAST_MEMORY:
        raise ProaError(
            "memory-too-small",
            f"{config.name!r} cannot work with {show_size(config.memory)} of memory",
            why=f"the engine needs {show_size(LEAST_MEMORY)} at least",
            hint="choose more, for example 2GiB (proa config set memory, or proa create --memory)",
            usage=True,
        )
    if config.disk < LEAST_DISK:
        raise ProaError(
            "disk-too-small",
            f"{config.name!r} cannot work with a disk of {show_size(config.disk)}",
            why=f"images and containers need {show_size(LEAST_DISK)} at least",
            hint="choose more: it takes room only as it fills (proa config set disk, or proa create --disk)",
            usage=True,
        )
    if config.cpus > cpus:
        raise ProaError(
            "too-many-cpus",
            f"{config.name!r} cannot have {config.cpus} CPUs",
            why=f"this computer has {cpus}",
            hint="choose fewer (proa config set cpus, or proa create --cpus)",
            usage=True,
        )


def check_driver(name: str, driver: Driver) -> None:
    """Raise ProaError `driver-unknown` unless `driver` is the one that is named."""
    if name != driver.name:
        raise ProaError(
            "driver-unknown", f"there is no driver {name!r}", why=f"drivers: {driver.name}", usage=True
        )


def check_room(places: Places) -> None:
    """Raise ProaError `disk-full` where a start would run out of disk space."""
    free = free_disk(places.machines)
    if free < LEAST_FREE:
        raise ProaError(
            "disk-full",
            "there is no room to start a machine",
            why=f"{places.machines} has {free // MIB} MiB free, and {LEAST_FREE // MIB} MiB are needed",
            hint="free some disk space and try again",
            layer="hypervisor",
        )
