"""Data disks: qcow2 made by qemu-img, sparse, and never with a backing file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec

from proa.model.errors import ProaError
from proa.system.files import explain
from proa.system.processes import Finished, run_async, which

TIMEOUT = 60.0


class _Info(msgspec.Struct, rename="kebab"):
    """What `qemu-img info --output=json` says (qemu: qapi/block-core.json, ImageInfo)."""

    format: str
    virtual_size: int
    backing_filename: str = ""


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
    """The disk's size in bytes. Raises ProaError `disk-corrupt`, `disk-has-backing-file`."""
    try:
        done = await _qemu_img(
            f"look at the disk {path}", "info", "--output=json", "-f", "qcow2", "-U", str(path)
        )
        info = msgspec.json.decode(done.stdout, type=_Info)
    except (ProaError, msgspec.MsgspecError) as error:
        if isinstance(error, ProaError) and error.code not in ("command-failed", "command-hung"):
            raise
        raise ProaError(
            "disk-corrupt",
            f"the disk {path} cannot be used",
            why=error.why if isinstance(error, ProaError) else str(error),
            hint="it is left as it is; to begin anew: proa delete, then proa start",
            layer="hypervisor",
        ) from error
    if info.backing_filename:
        raise ProaError(
            "disk-has-backing-file",
            f"the disk {path} is refused",
            why=f"it stands on another file, which Proa did not make: {info.backing_filename!r}",
            hint="it is left as it is; move it away, and the next start makes a new one",
            layer="hypervisor",
        )
    return info.virtual_size


async def grow(path: Path, size: int) -> None:
    """Make the disk at least `size` bytes; a larger one stays."""
    if await check(path) < size:
        await _qemu_img(f"grow the disk {path}", "resize", "-q", "-f", "qcow2", str(path), str(size))
