"""Who holds a TCP port of the host, and which port nearby is free."""

from __future__ import annotations

import errno
import socket
import sys
from pathlib import Path

_LISTEN = "0A"  # /proc/net/tcp's `st` (kernel: include/net/tcp_states.h)
_NEARBY = 100


def owner_of(port: int) -> str | None:
    """`name (pid N)` of the process that listens on `port`; None where the system does not tell us."""
    if sys.platform != "linux":
        return None
    inodes = {inode for name in ("tcp", "tcp6") for inode in _listening(name, port)}
    for process in Path("/proc").iterdir() if inodes else ():
        if not process.name.isdigit():
            continue
        try:
            holds = any(_inode(entry) in inodes for entry in (process / "fd").iterdir())
            if holds:
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue  # another user's process, or one that has ended
    return None


def _listening(table: str, port: int) -> list[str]:
    try:
        rows = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    except OSError:
        return []
    fields = [row.split() for row in rows]
    return [row[9] for row in fields if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port]


def _inode(entry: Path) -> str:
    try:
        return str(entry.readlink()).removeprefix("socket:[").removesuffix("]")
    except OSError:
        return ""


def free_port_near(port: int, address: str) -> int | None:
    """The next higher port that can be bound on `address` now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for candidate in range(max(port + 1, 1024), min(port + 1 + _NEARBY, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((address, candidate))
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    continue
                return None
            return candidate
    return None


def first_unprivileged() -> int:
    """The lowest port that a user may bind: 1024, or what the system was told."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return 1024 if sys.platform != "win32" else 0
