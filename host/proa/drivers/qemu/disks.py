"""Data disks: qcow2 made by qemu-img, sparse, and never with a backing file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import msgspec

from proa.drivers.qemu import qcow2
from proa.model.errors import ProaError
from proa.system.files import explain
from proa.system.processes import Finished, run_async, which

TIMEOUT = 60.0


class _Info(msgspec.Struct, rename="kebab"):
    """What `qemu-img info --output=json` says (qemu: qapi/block-core.json, ImageInfo)."""

    virtual_size: int


async def _qemu_img(doing: str, *argv: str) -> Finished:
    tool = which("qemu-img")
    if tool is None:
        raise ProaError(
            "qemu-missing",
            "qemu-img is not installed",
            why="it makes the machine's disk",
            hint="on Debian and Ubuntu: sudo apt install qemu-utils; on macOS: brew install qemu",
            layer="hypervisor",
        )
    done = await run_async([str(tool), *argv], timeout=TIMEOUT)
    if done.status and b"No space left" in done.stderr:
        raise explain(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), doing)
    return done.check(doing)


async def make(path: Path, size: int) -> None:
    """A new disk of `size` bytes, whole or not at all. Raises ProaError `disk-full`, `command-failed`."""
    partial = path.with_suffix(".partial")
    try:
        await _qemu_img(
            f"make the disk {path}",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "lazy_refcounts=on",
            str(partial),
            str(size),
        )
        partial.chmod(0o600)
        partial.rename(path)
    except OSError as error:
        raise explain(error, f"make the disk {path}") from error
    finally:
        partial.unlink(missing_ok=True)


async def check(path: Path) -> int:
    """The disk's size in bytes. Raises ProaError `disk-corrupt`, `disk-has-backing-file`, `disk-foreign`."""
    _check_header(path)
    try:
        done = await _qemu_img(
            f"look at the disk {path}", "info", "--output=json", "-f", "qcow2", "-U", str(path)
        )
        info = msgspec.json.decode(done.stdout, type=_Info)
    except (ProaError, msgspec.MsgspecError) as error:
        if isinstance(error, ProaError) and error.code not in ("command-failed", "command-hung"):
            raise
        raise _corrupt(path, error.why if isinstance(error, ProaError) else str(error)) from error
    return info.virtual_size


def _check_header(path: Path) -> None:
    """Refuse a disk that leads to other files before any tool follows it there."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _refused(path, "disk-foreign", "it is no regular file")
        header = qcow2.read(path)
    except OSError as error:
        raise explain(error, f"read the disk {path}") from error
    except ValueError as error:
        raise _corrupt(path, str(error)) from error
    if why := qcow2.foreign(header):
        raise _refused(path, "disk-has-backing-file" if header.backing else "disk-foreign", why)


def _refused(path: Path, code: str, why: str) -> ProaError:
    return ProaError(
        code,
        f"the disk {path} is refused",
        why=why,
        hint="it is left as it is; move it away, and the next start makes a new one",
        layer="hypervisor",
    )


def _corrupt(path: Path, why: str) -> ProaError:
    return ProaError(
        "disk-corrupt",
        f"the disk {path} cannot be used",
        why=why,
        hint="it is left as it is; to begin anew: proa delete, then proa start",
        layer="hypervisor",
    )


async def grow(path: Path, size: int) -> None:
    """Make the disk at least `size` bytes; a larger one stays."""
    if await check(path) < size:
        await _qemu_img(f"grow the disk {path}", "resize", "-q", "-f", "qcow2", str(path), str(size))
