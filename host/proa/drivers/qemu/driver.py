"""The QEMU driver: finds QEMU, boots machines detached, and takes over those that are running."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from proa.drivers.base import (
    RAM_FILE,
    STATE_FILE,
    BootSpec,
    Capabilities,
    DriverInfo,
    MemoryImages,
)
from proa.drivers.qemu import acceleration, command, disks, migration, strays
from proa.drivers.qemu.console import ConsoleReader
from proa.drivers.qemu.hypervisor import QemuProcess
from proa.drivers.qemu.monitor import Monitor, forwarded_port
from proa.model.errors import ProaError
from proa.system.files import explain, read_bytes, tail, write_atomic
from proa.system.memory import available_memory
from proa.system.paths import Places
from proa.system.processes import ProcessIdentity, alive, kill, run_async, spawn_detached, wait_end, which
from proa.system.sparse import allocated, make_memory

log = logging.getLogger("proa.qemu")

OLDEST = (7, 2)
STATE_VERSION = 1
SOCKET_TIMEOUT = 20.0  # seconds until QEMU's monitor is there; a loaded host needs some
STRAY_TIMEOUT = 5.0
ADOPT_TIMEOUT = 4.0  # seconds for a monitor to answer a new agent; one that hangs is not adopted
DYING = 0.5  # seconds that a QEMU whose monitor failed has to end by itself
POLL = 0.02
PROGRAMS = {"x86_64": "qemu-system-x86_64", "amd64": "qemu-system-x86_64", "aarch64": "qemu-system-aarch64"}
_VERSION = re.compile(r"version (\d+)\.(\d+)(\.\d+)?")
_INSTALL = "on Debian and Ubuntu: sudo apt install qemu-system-x86; on macOS: brew install qemu"


class Booted(msgspec.Struct, frozen=True):
    """run/NAME/hypervisor.json, version 1: what a later agent needs to take a machine over."""

    version: int
    pid: int
    started: str  # proa.system.processes.ProcessIdentity
    link_port: int  # 0 until it has told
    accelerator: str
    name: str
    memory_fd: int = -1  # its number in QEMU, where the guest's memory is a shared file


class QemuDriver:
    """Implements proa.drivers.base.Driver."""

    name = "qemu"

    def __init__(self, places: Places, memory_images: MemoryImages | None = None) -> None:
        """`memory_images` is what the system offers, unless another way is chosen."""
        self.capabilities = Capabilities(
            loopback_link=True, memory_images=memory_images or _memory_images(sys.platform)
        )
        self._cache = places.acceleration
        self._info: DriverInfo | None = None

    def find(self) -> Path:
        """QEMU's program: PROA_QEMU, or the one on PATH. Raises ProaError `qemu-missing`."""
        if chosen := os.environ.get("PROA_QEMU"):
            if Path(chosen).is_absolute() and os.access(chosen, os.X_OK):
                return Path(chosen)
            raise _missing(f"PROA_QEMU names {chosen!r}, which is no program")
        program = PROGRAMS.get(platform.machine().lower(), PROGRAMS["x86_64"])
        found = which(program)
        if found is None:
            raise _missing(f"there is no {program} on the PATH")
        return found

    async def probe(self, kernel: Path, initrd: Path, progress: Callable[[str], None]) -> DriverInfo:
        qemu = self.find()
        version = await self._version(qemu)
        info = await acceleration.choose(qemu, version, kernel, initrd, self._cache, progress)
        self._info = info
        return info

    async def inspect(self, kernel: Path | None) -> DriverInfo:
        qemu = self.find()
        version = await self._version(qemu)
        known = acceleration.known(qemu, version, kernel, self._cache) if kernel else None
        return known or DriverInfo(version=version, accelerator="", reason="not proved yet")

    async def _version(self, qemu: Path) -> str:
        done = (await run_async([str(qemu), "--version"], timeout=20)).check("ask QEMU for its version")
        found = _VERSION.search(done.stdout.decode("utf-8", "replace"))
        if found is None:
            raise _missing(f"{qemu} does not say which version it is")
        if (int(found[1]), int(found[2])) < OLDEST:
            raise ProaError(
                "qemu-too-old",
                f"QEMU {found[1]}.{found[2]} cannot run machines of Proa",
                why=f"{OLDEST[0]}.{OLDEST[1]} is the oldest that can",
                hint=f"install a newer one ({_INSTALL}), or name one with PROA_QEMU",
                layer="hypervisor",
            )
        return found[0].removeprefix("version ")

    async def make_disk(self, path: Path, size: int) -> None:
        await disks.make(path, size)

    async def grow_disk(self, path: Path, size: int) -> None:
        await disks.grow(path, size)

    async def boot(self, spec: BootSpec, progress: Callable[[str], None]) -> QemuProcess:
        memory = self._make_memory(spec)
        try:
            return await self._spawn(spec, memory)
        except BaseException:
            _close(memory)
            raise

    def _make_memory(self, spec: BootSpec) -> int | None:
        if self.capabilities.memory_images is not MemoryImages.SHARED:
            return None
        try:
            return make_memory(f"proa-{spec.name}", spec.memory)
        except OSError as error:
            raise explain(error, "make the machine's memory") from error

    async def restore(self, spec: BootSpec, folder: Path, progress: Callable[[str], None]) -> QemuProcess:
        shared = (folder / RAM_FILE).exists()
        if shared is not (self.capabilities.memory_images is MemoryImages.SHARED):
            raise _not_loaded("it was saved in another way than this host restores")
        memory = self._make_memory(spec)
        state = -1
        hypervisor: QemuProcess | None = None
        try:
            state = os.open(folder / STATE_FILE, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            self._check_room(folder / (RAM_FILE if shared else STATE_FILE))
            # QEMU comes up while its memory is filled: it looks at neither before it loads the state.
            made = await asyncio.gather(
                self._spawn(spec, memory, incoming=True),
                _fill(memory, folder / RAM_FILE),
                return_exceptions=True,
            )
            if not isinstance(made[0], BaseException):
                hypervisor = made[0]
            for result in made:
                if isinstance(result, BaseException):
                    raise result
            assert hypervisor is not None
            await hypervisor.load(state, shared=shared)
        except BaseException as error:
            if hypervisor is not None:
                await hypervisor.quit()
                await hypervisor.detach()
            else:
                _close(memory)
            if isinstance(error, OSError):
                raise _not_loaded(error.strerror or str(error)) from error
            raise
        finally:
            _close(state)
        return hypervisor

    def _check_room(self, image: Path) -> None:
        """Raise ProaError `memory-short` where the host has not the memory that the guest had in use."""
        with image.open("rb") as file:
            need = allocated(file.fileno())
        free = available_memory()
        if free is not None and free < need:
            raise ProaError(
                "memory-short",
                "there is not enough free memory to wake the machine",
                why=f"it needs {need >> 20} MiB, and {free >> 20} MiB are free",
                hint="close something and try again; the machine sleeps on",
                layer="hypervisor",
            )

    def fingerprint(self, spec: BootSpec) -> dict[str, str]:
        if self._info is None:
            raise _not_probed()
        nowhere = Path("/")
        plain = replace(
            spec, name="", kernel=nowhere, initrd=nowhere, root=nowhere, data_disk=nowhere,
            guest_config=nowhere, runtime=nowhere,
        )  # fmt: skip
        line = command.command(nowhere, plain, self._info.accelerator, sys.platform)
        return {
            "hypervisor": f"QEMU {self._info.version}",
            "accelerator": self._info.accelerator,
            # Emulation gives every host the same processor.
            "processor": "" if self._info.accelerator == "tcg" else acceleration.processor(),
            "memory": f"{spec.memory >> 20} MiB, {self.capabilities.memory_images}",
            "processors": str(spec.cpus),
            "devices": hashlib.blake2b("\0".join(line).encode(), digest_size=16).hexdigest(),
        }

    async def _spawn(self, spec: BootSpec, memory: int | None, *, incoming: bool = False) -> QemuProcess:
        """QEMU with its guest paused, or waiting for a state. On failure nothing is left running."""
        if self._info is None:
            raise _not_probed()
        accelerator = self._info.accelerator
        argv = command.command(
            self.find(), spec, accelerator, sys.platform, shared_fd=memory, incoming=incoming
        )
        _sweep(spec.runtime)
        fds = tuple(fd for fd in (spec.lock_fd, memory) if fd is not None)
        identity = spawn_detached(argv, log=spec.runtime / "qemu.log", pass_fds=fds)
        try:
            # Who it is, at once: should this agent die now, the next one can prove it.
            _record(spec, identity, 0, accelerator, memory)
            return await self._take(spec, identity, accelerator, memory, anew=not incoming)
        except BaseException as error:
            died = isinstance(error, ProaError) and await _dies(identity)
            kill(identity, force=True)
            await wait_end(identity)
            _sweep(spec.runtime)
            if isinstance(error, ProaError):
                words = tail(spec.runtime / "qemu.log", 8)
                if died:
                    raise _ended(words) from error
                error.log = error.log or words
            raise

    async def _take(
        self, spec: BootSpec, identity: ProcessIdentity, accelerator: str, memory: int | None, *, anew: bool
    ) -> QemuProcess:
        """Monitor, console and link port of a QEMU that was just started.

        A guest that is booted `anew` begins a log of its own; one of a memory image goes on with the log
        that has its boot.
        """
        monitor = Monitor(spec.name)
        await _until_socket(spec.runtime / "qmp.sock", identity)
        await monitor.connect(spec.runtime / "qmp.sock")
        port = await _link_port(monitor)
        console = await ConsoleReader.open(spec.runtime / "console.sock", spec.console_log, fresh=anew)
        _record(spec, identity, port, accelerator, memory)
        return QemuProcess(identity, monitor, console, accelerator, port, memory)

    async def adopt(self, name: str, runtime: Path, lock: Path, console_log: Path) -> QemuProcess | None:
        """Never signals: who is not proved to be the QEMU that was booted here is left alone."""
        booted = _booted(runtime)
        identity = ProcessIdentity(booted.pid, booted.started) if booted else strays.find(lock, runtime)
        if identity is None or not alive(identity):
            return None
        monitor = Monitor(name)
        try:
            await monitor.connect(runtime / "qmp.sock", timeout=ADOPT_TIMEOUT)
            if booted is None or not booted.link_port:
                booted = await self._recognise(name, identity, monitor)
                write_atomic(runtime / "hypervisor.json", msgspec.json.encode(booted))
            console = await ConsoleReader.open(runtime / "console.sock", console_log, fresh=False)
        except ProaError as error:
            log.warning("%s: %s", name, error)
            await monitor.close()
            return None
        memory = _memory_of(booted)
        return QemuProcess(identity, monitor, console, booted.accelerator, booted.link_port, memory)

    async def _recognise(self, name: str, identity: ProcessIdentity, monitor: Monitor) -> Booted:
        """What hypervisor.json would say of a QEMU of ours. Raises ProaError `hypervisor-silent` …"""
        kvm = await monitor.execute("query-kvm")
        hardware = isinstance(kvm, dict) and kvm.get("enabled") is True
        port = await _link_port(monitor)
        # Who has no record can only be found on Linux, where it is the one or the other.
        accelerator = "kvm" if hardware else "tcg"
        memory = _memory_fd(identity.pid)
        return Booted(STATE_VERSION, identity.pid, identity.started, port, accelerator, name, memory)

    async def end_stray(self, name: str, runtime: Path, lock: Path) -> None:
        """The socket may be about to appear: an agent can die between QEMU's start and its first word."""
        booted = _booted(runtime)
        identity = ProcessIdentity(booted.pid, booted.started) if booted else strays.find(lock, runtime)
        if identity is not None and alive(identity):
            await self._ask_to_end(name, runtime)
            if not await _dies(identity):
                log.warning("%s: its QEMU does not answer, ending it by force", name)
                kill(identity, force=True)
                await wait_end(identity)
            return
        deadline = asyncio.get_running_loop().time() + STRAY_TIMEOUT
        while asyncio.get_running_loop().time() < deadline:
            if await self._ask_to_end(name, runtime):
                return
            await asyncio.sleep(POLL * 10)

    async def _ask_to_end(self, name: str, runtime: Path) -> bool:
        """True if a QEMU of that name answered on the machine's socket, and was told to end."""
        monitor = Monitor(name)
        try:
            await monitor.connect(runtime / "qmp.sock", timeout=ADOPT_TIMEOUT)
            told = await monitor.execute("query-name")
            if isinstance(told, dict) and told.get("name") == name:
                log.warning("%s: ending a QEMU that no agent knows", name)
                await monitor.execute("quit")
                return True
        except ProaError as error:
            log.debug("%s: %s", name, error)
        finally:
            await monitor.close()
        return False


def _record(
    spec: BootSpec, identity: ProcessIdentity, port: int, accelerator: str, memory: int | None
) -> None:
    fd = -1 if memory is None else memory
    booted = Booted(STATE_VERSION, identity.pid, identity.started, port, accelerator, spec.name, fd)
    write_atomic(spec.runtime / "hypervisor.json", msgspec.json.encode(booted))


def _booted(runtime: Path) -> Booted | None:
    """What was written of the QEMU that was booted here last, if it can be read."""
    try:
        booted = msgspec.json.decode(read_bytes(runtime / "hypervisor.json"), type=Booted)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError, ProaError):
        return None
    return booted if booted.version == STATE_VERSION else None


async def _link_port(monitor: Monitor) -> int:
    """The loopback port of the guest's link. Raises ProaError `hypervisor-refused`, `hypervisor-silent`."""
    told = await monitor.execute("human-monitor-command", {"command-line": "info usernet"})
    port = forwarded_port(str(told), command.LINK_ADDRESS, command.LINK_PORT)
    if port is None:
        raise ProaError(
            "hypervisor-refused",
            "QEMU did not forward the link's port",
            why=str(told)[:300],
            layer="hypervisor",
        )
    return port


def _memory_images(system: str) -> MemoryImages:
    """QEMU on Windows cannot save what WHPX runs (MEASURED.md)."""
    if system == "win32":
        return MemoryImages.NONE
    return MemoryImages.SHARED if system == "linux" else MemoryImages.STREAMED


def _memory_fd(pid: int) -> int:
    """The number that the guest's shared memory has in QEMU, or -1."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed meanwhile
            if str(link.readlink()).startswith("/memfd:proa-"):
                return int(link.name)
    return -1


def _memory_of(booted: Booted) -> int | None:
    """Our own descriptor of a running guest's shared memory."""
    if booted.memory_fd < 0:
        return None
    try:
        return os.open(f"/proc/{booted.pid}/fd/{booted.memory_fd}", os.O_RDONLY)
    except OSError as error:
        log.warning("%s: its memory cannot be reached: %s", booted.name, error)
        return None


def _close(fd: int | None) -> None:
    if fd is not None and fd >= 0:
        os.close(fd)


async def _fill(memory: int | None, image: Path) -> None:
    if memory is not None:
        await asyncio.to_thread(migration.copy_in, image, memory)


def _not_loaded(why: str) -> ProaError:
    return ProaError(
        "memory-load-failed", "the machine's memory could not be loaded", why=why, layer="hypervisor"
    )


def _not_probed() -> ProaError:
    return ProaError("not-probed", "the driver was not asked for an accelerator", layer="hypervisor")


def _missing(why: str) -> ProaError:
    return ProaError(
        "qemu-missing", "QEMU cannot be found", why=why, hint=f"install it ({_INSTALL})", layer="hypervisor"
    )


async def _dies(identity: ProcessIdentity) -> bool:
    """True if QEMU ends by itself: its monitor may be gone a moment before it is."""
    try:
        await asyncio.wait_for(wait_end(identity), DYING)
    except TimeoutError:
        return False
    return True


def _ended(words: tuple[str, ...]) -> ProaError:
    """QEMU ended before its guest ran; `words` is the end of its log."""
    return ProaError(
        "hypervisor-failed",
        "QEMU did not start",
        why=words[-1] if words else "it was killed, or it crashed",
        log=words,
        layer="hypervisor",
    )


def _sweep(runtime: Path) -> None:
    """Remove what an earlier QEMU left; the machine's lock is ours, so nobody uses it."""
    for name in ("qmp.sock", "console.sock", "hypervisor.json"):
        (runtime / name).unlink(missing_ok=True)


async def _until_socket(path: Path, identity: ProcessIdentity) -> None:
    """Return when QEMU has made its monitor's socket; raise as soon as QEMU has ended."""
    deadline = asyncio.get_running_loop().time() + SOCKET_TIMEOUT
    while not _is_listening(path):
        if not alive(identity):
            raise _ended(())
        if asyncio.get_running_loop().time() > deadline:
            raise ProaError(
                "hypervisor-silent",
                "QEMU does not answer",
                why=f"no monitor within {SOCKET_TIMEOUT:.0f} s",
                layer="hypervisor",
            )
        await asyncio.sleep(POLL)


def _is_listening(path: Path) -> bool:
    """A bound socket listens a moment later. Told by the system's table: QEMU serves one client at a time."""
    if sys.platform != "linux":
        return path.exists()
    # proc_net_unix(5): the flag __SO_ACCEPTCON is set where somebody listens.
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines():
        words = line.split(maxsplit=7)
        if len(words) == 8 and words[7] == str(path):
            return bool(int(words[3], 16) & 0x10000)
    return False
