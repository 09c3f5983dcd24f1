"""The initrd: busybox, the modules that reach the root, and a script that mounts it and goes over."""

from __future__ import annotations

import stat
from pathlib import Path

from cpio import Entry, archive, folder
from modules import Modules
from recipe import INITRD_MODULES

_APPLETS = (
    "sh",
    "mount",
    "umount",
    "insmod",
    "switch_root",
    "poweroff",
    "cat",
    "mkdir",
    "grep",
    "sleep",
    "echo",
    "ls",
)


def build(root: Path, script: Path, modules: Modules) -> bytes:
    """The archive, uncompressed: it is small, and unpacking costs time at every boot."""
    entries = [folder(path) for path in ("bin", "dev", "lib", "proc", "sys", "run", "lower", "upper", "root")]
    entries.append(Entry("bin/busybox", stat.S_IFREG | 0o755, (root / "usr/bin/busybox").read_bytes()))
    entries += [Entry(f"bin/{name}", stat.S_IFLNK | 0o777, b"busybox") for name in _APPLETS]
    entries.append(Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    entries.append(Entry("init", stat.S_IFREG | 0o755, script.read_bytes()))
    order = []
    for path in modules.closure(INITRD_MODULES):
        name = Path(path).name.removesuffix(".xz")
        order.append(name)
        entries.append(Entry(f"lib/{name}", stat.S_IFREG | 0o644, _plain_module(modules.folder / path)))
    entries.append(Entry("lib/order", stat.S_IFREG | 0o644, "\n".join(order).encode() + b"\n"))
    return archive(entries)


def _plain_module(path: Path) -> bytes:
    """The module without compression: busybox's insmod and a boot under emulation want it so."""
    data = path.read_bytes()
    if path.suffix != ".xz":
        return data
    import lzma

    return lzma.decompress(data)
