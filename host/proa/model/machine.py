"""A machine: its config (what was asked for) and its status (what is)."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from proa.model.problem import Problem
from proa.model.sizes import GIB

CONFIG_VERSION = 1


class MachineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What `machine.toml` says, checked (see proa.machine.store for the file's form)."""

    name: str
    cpus: int = 1
    memory: int = 2 * GIB  # bytes
    disk: int = 60 * GIB  # bytes, the most the data disk may grow to
    driver: str = "qemu"
    image: str = ""  # an image's id, or empty: the newest there is
    daemon: dict[str, Any] = {}  # keys of the engine's daemon.json, given to it as they are
    values: dict[str, Any] = {}  # what is set of all other settings (proa.model.settings)

    def setting(self, key: str) -> Any:
        """The value of a setting that has no field of its own, or its default."""
        from proa.model import settings  # a command that only looks needs no table of them

        return self.values.get(key, settings.BY_KEY[key].default)


class MachineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a person may choose when a machine is made; None is the default."""

    cpus: int | None = None
    memory: int | None = None
    disk: int | None = None
    driver: str | None = None
    image: str | None = None


class MachineState(enum.StrEnum):
    ABSENT = "absent"
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"  # the engine answered
    STOPPING = "stopping"
    SUSPENDING = "suspending"
    SUSPENDED = "suspended"  # it sleeps with its containers; a docker request or a connection wakes it
    BROKEN = "broken"  # and there is a problem


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    version: str = ""  # empty until the engine has answered
    socket: str = ""  # a path on the host


class MachineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of `proa status --json`: its names are a contract (DESIGN.md)."""

    name: str
    state: MachineState
    problem: Problem | None = None
    driver: str = ""
    accelerator: str = ""
    engine: EngineInfo = EngineInfo()
    started_with: str = ""  # `cold` or `memory-image`, or empty while it does not run
    start_seconds: float | None = None
    cpus: int = 0
    memory: int = 0  # bytes
    disk: int = 0  # bytes
    pid: int | None = None  # of the hypervisor
    asleep_since: float | None = None  # Unix time, while it is suspended
    woken_by: str = ""  # what woke it last, for a person; empty where nothing has yet


class PublishedPort(msgspec.Struct, frozen=True, kw_only=True):
    """One published port as the host binds it; the shape of `proa ports --json`."""

    machine: str
    container: str  # name without the slash
    host_ip: str  # the address asked for: 127.0.0.1, 0.0.0.0, ::, ::1 …
    host_port: int
    container_port: int
    protocol: str = "tcp"
    problem: Problem | None = None  # why it is not bound
