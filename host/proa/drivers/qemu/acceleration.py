"""Which accelerator to use: proved by a real boot, and remembered with what it was proved on.

`/dev/kvm` can open and still boot nothing (MEASURED.md), so nothing less than a boot counts.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from proa.drivers.base import DriverInfo
from proa.drivers.qemu import command
from proa.model.errors import ProaError
from proa.system.files import read_bytes, write_atomic
from proa.system.processes import run_async

CACHE_VERSION = 1
WATCHDOG = 20.0  # seconds a boot to the first program may take; with acceleration it takes two
PROOF = b"PROA-PROBE-OK"


class Remembered(msgspec.Struct, frozen=True):
    """cache/acceleration.json, version 1."""

    version: int
    fingerprint: str
    accelerator: str
    reason: str


def candidates(system: str) -> tuple[str, ...]:
    """Accelerators to try on a system, best first; emulation is what is left."""
    return {"linux": ("kvm",), "darwin": ("hvf",), "win32": ("whpx",)}.get(system, ())


def fingerprint(qemu: Path, version: str, kernel: Path) -> str:
    """What the proof depends on: QEMU, the host's kernel and processor, the guest's kernel."""
    program = qemu.stat()
    guest = kernel.stat()
    return "|".join(
        str(part)
        for part in (
            version, program.st_ino, program.st_size, program.st_mtime_ns, platform.release(),
            platform.machine(), processor(), guest.st_size, _kvm(),
        )
    )  # fmt: skip


def processor() -> str:
    """The host's processor, as it calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _kvm() -> str:
    """Whether /dev/kvm is there and ours to open: a user who joins its group gets a new proof."""
    device = Path("/dev/kvm")
    if not device.exists():
        return "absent"
    return "usable" if os.access(device, os.R_OK | os.W_OK) else "forbidden"


def recall(cache: Path, mark: str) -> Remembered | None:
    """What was proved on this very host, QEMU and kernel; a broken or other memory counts as none."""
    try:
        found = msgspec.json.decode(read_bytes(cache), type=Remembered)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError, ProaError):
        return None
    return found if found.version == CACHE_VERSION and found.fingerprint == mark else None


def known(qemu: Path, version: str, kernel: Path, cache: Path) -> DriverInfo | None:
    """What was proved here with this kernel, without a boot; None where nothing was."""
    try:
        found = recall(cache, fingerprint(qemu, version, kernel))
    except OSError:
        return None  # the kernel is not there
    return DriverInfo(version, found.accelerator, found.reason) if found else None


async def choose(
    qemu: Path, version: str, kernel: Path, initrd: Path, cache: Path, progress: Callable[[str], None]
) -> DriverInfo:
    """The accelerator that boots `kernel` here, from memory or by trying."""
    mark = fingerprint(qemu, version, kernel)
    found = recall(cache, mark)
    if found is None:
        accelerator, reason = await _try_all(qemu, kernel, initrd, progress)
        found = Remembered(CACHE_VERSION, mark, accelerator, reason)
        write_atomic(cache, msgspec.json.encode(found))
    return DriverInfo(version=version, accelerator=found.accelerator, reason=found.reason)


async def _try_all(
    qemu: Path, kernel: Path, initrd: Path, progress: Callable[[str], None]
) -> tuple[str, str]:
    reasons = []
    for accelerator in candidates(sys.platform):
        if accelerator == "kvm" and _kvm() != "usable":
            reasons.append(
                "there is no /dev/kvm"
                if _kvm() == "absent"
                else "/dev/kvm may not be opened: join the group kvm"
            )
            continue
        progress(f"trying {accelerator} with a real boot (at most {WATCHDOG:.0f} s, once)")
        failure = await _prove(qemu, kernel, initrd, accelerator)
        if not failure:
            return accelerator, "it booted a kernel"
        reasons.append(f"{accelerator} does not work: {failure}")
    return "tcg", "; ".join(reasons) or "this system has no accelerator that QEMU knows"


async def _prove(qemu: Path, kernel: Path, initrd: Path, accelerator: str) -> str:
    """Empty if a kernel came up to its first program, else why not."""
    argv = command.probe_command(qemu, kernel, initrd, accelerator, sys.platform)
    try:
        done = await run_async(argv, timeout=WATCHDOG)
    except ProaError as error:
        if error.code == "command-hung":
            return f"a kernel did not boot within {WATCHDOG:.0f} s"
        return str(error)
    if PROOF in done.stdout:
        return ""
    told = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return told[-1] if told else f"QEMU ended with {done.status} before the guest said a word"
