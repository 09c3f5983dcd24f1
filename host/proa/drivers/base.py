"""What a hypervisor driver is to the rest of Proa.

Nobody tests a driver's name: what differs is said by Capabilities.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class MemoryImages(enum.StrEnum):
    """How a driver saves a guest's memory on this host."""

    NONE = "none"  # it cannot: every start is a cold one
    STREAMED = "streamed"  # all memory goes through one stream into a file
    SHARED = "shared"  # memory is a shared file: a small state of the devices, and a sparse copy


@dataclass(frozen=True)
class Capabilities:
    """What a driver can do on this host."""

    loopback_link: bool  # the guest's link port is forwarded to a loopback port of the host
    memory_images: MemoryImages = MemoryImages.NONE


@dataclass(frozen=True)
class DriverInfo:
    """What `probe` found: the hypervisor's version and how it will run code."""

    version: str
    accelerator: str  # `kvm`, `hvf`, `whpx` or `tcg`
    reason: str  # why it is this accelerator, one line


@dataclass(frozen=True)
class BootSpec:
    """All a driver must know to boot one machine. Paths are absolute."""

    name: str
    cpus: int
    memory: int  # bytes
    kernel: Path
    initrd: Path
    root: Path  # the read-only root image
    data_disk: Path  # qcow2
    command_line: str  # the kernel's, without what the driver itself adds (console)
    guest_config: Path  # a private file with the guest's config (JSON), given to it by fw_cfg
    runtime: Path  # a private folder for sockets and pid, gone after a reboot
    console_log: Path
    lock_fd: int  # kept open by the hypervisor for as long as it lives


STATE_FILE = "state"  # of a memory image: the devices' state; with streamed memory all of it
RAM_FILE = "ram"  # of a memory image: the guest's memory, sparse; only where it is shared


class ExitReason(enum.StrEnum):
    POWER_OFF = "power-off"  # the guest shut down
    RESET = "reset"  # the guest rebooted, or its kernel panicked: the hypervisor does not restart it
    QUIT = "quit"  # we asked
    DIED = "died"  # killed or crashed


class Stall(enum.StrEnum):
    """Why the hypervisor paused a guest by itself; its failed writes are made again when it goes on."""

    NO_SPACE = "no-space"  # the host's disk is full
    FAILED = "failed"  # the host's disk refuses writes


class Hypervisor(Protocol):
    """One running hypervisor process, made or adopted."""

    @property
    def pid(self) -> int: ...
    @property
    def accelerator(self) -> str: ...
    @property
    def link_address(self) -> tuple[str, int]:
        """Where on the host's loopback the guest's link port is."""

    @property
    def ended(self) -> asyncio.Future[ExitReason]:
        """Done when the process is gone, within a second of its end; never raises."""

    async def is_paused(self) -> bool:
        """True between `boot` and the first `resume`. Raises ProaError `hypervisor-silent`."""

    async def stall(self) -> Stall | None:
        """Why the guest stands still, where a write of its disk failed.

        Raises ProaError `hypervisor-silent`.
        """

    async def has_guest(self) -> bool:
        """False while it has run nothing: it was just made, or it waits for a memory image."""

    async def resume(self) -> None:
        """Let the guest run."""

    async def pause(self) -> None:
        """Stop the guest's processors. Raises ProaError."""

    def memory_in_use(self) -> int:
        """Bytes of memory that the host holds for the guest: about what a memory image will take."""

    async def save(self, folder: Path) -> None:
        """Write the paused guest's state and memory into `folder` (STATE_FILE, RAM_FILE), durable on return.

        On failure the guest stays paused, can be resumed, and what was written is to be thrown away.
        Raises ProaError `memory-save-failed`, `disk-full` …
        """

    async def quit(self, timeout: float = 10.0) -> None:
        """End the process: ask, then SIGKILL within `timeout` seconds. Safe to call twice."""

    async def detach(self) -> None:
        """Let go of monitor and console; the machine goes on running."""


class Driver(Protocol):
    @property
    def name(self) -> str:
        """As `driver` in machine.toml names it."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def probe(self, kernel: Path, initrd: Path, progress: Callable[[str], None]) -> DriverInfo:
        """Find the hypervisor and prove an accelerator by booting `kernel` and `initrd`.

        Raises ProaError `qemu-missing`, `qemu-too-old` …
        """

    async def inspect(self, kernel: Path | None) -> DriverInfo:
        """What `probe` would find, as far as it is known without booting anything.

        `accelerator` is empty where none was proved with `kernel` yet. Raises ProaError as `probe` does.
        """

    async def make_disk(self, path: Path, size: int) -> None:
        """A new sparse data disk, made whole or not at all. Raises ProaError `disk-full` …"""

    async def grow_disk(self, path: Path, size: int) -> None:
        """Make the data disk at least `size` bytes; never shrinks."""

    async def boot(self, spec: BootSpec, progress: Callable[[str], None]) -> Hypervisor:
        """Start the hypervisor detached with the guest paused. On failure nothing is left running.

        Raises ProaError with layer `hypervisor`.
        """

    def fingerprint(self, spec: BootSpec) -> dict[str, str]:
        """What must be the same for a memory image to be restored: words for a person, by what they are.

        Only after `probe`. Raises ProaError.
        """

    async def restore(self, spec: BootSpec, folder: Path, progress: Callable[[str], None]) -> Hypervisor:
        """Start the hypervisor detached with the guest as `save` left it in `folder`, paused.

        Nothing in `folder` is changed. On failure nothing is left running.
        Raises ProaError `memory-short`, `memory-load-failed`, or as `boot` does.
        """

    async def end_stray(self, name: str, runtime: Path, lock: Path) -> None:
        """End a hypervisor of `name` that was booted in `runtime` but cannot be adopted; none is fine.

        It is asked through its own socket in our private folder, and signalled only where its identity
        is proved: by what was written when it was booted, or by `lock` in its hands.
        """

    async def adopt(self, name: str, runtime: Path, lock: Path, console_log: Path) -> Hypervisor | None:
        """Take over what an earlier agent booted in `runtime`, or None where that cannot be."""
