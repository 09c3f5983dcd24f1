"""What a published port carries: hashes over it, with true half-close; and what the host listens on."""

from __future__ import annotations

import hashlib
import random
import socket
from pathlib import Path

from tests.support.commands import run

BLOCK = 1 << 20
TCP_LISTEN = "0A"  # a state in /proc/net/tcp


def hash_through(address: str, port: int, data: bytes, timeout: float = 60.0) -> str:
    """Send `data`, half-close, and return the first word of what comes back."""
    with socket.create_connection((address, port), timeout=timeout) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(BLOCK), b""))
    return answer.decode().partition(" ")[0].strip()


def sample(seed: int, size: int) -> tuple[bytes, str]:
    """Random bytes and their hash."""
    data = random.Random(seed).randbytes(size)
    return data, hashlib.sha256(data).hexdigest()


def is_open(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True


def fetch(url: str) -> str:
    """What curl gets of a page, or nothing."""
    return run(["curl", "-sf", "--max-time", "10", url], timeout=20).out


def listeners_of(pid: int) -> set[tuple[str, int]]:
    """(address, port) of the TCP sockets that a process of this host listens on."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = str(descriptor.readlink())
        except FileNotFoundError:  # closed meanwhile
            continue
        if name.startswith("socket:["):
            inodes.add(name[8:-1])
    found = set()
    for family in ("tcp", "tcp6"):
        found |= {
            (address, port)
            for address, port, inode in parse_listeners(Path(f"/proc/net/{family}").read_text())
            if inode in inodes
        }
    return found


def parse_listeners(table: str) -> list[tuple[str, int, str]]:
    """(address, port, inode) of each listening socket of a /proc/net/tcp or tcp6 (see proc(5))."""
    found = []
    for line in table.splitlines():
        words = line.split()
        if len(words) > 9 and words[3] == TCP_LISTEN:
            address, _, port = words[1].rpartition(":")
            found.append((_address(bytes.fromhex(address)), int(port, 16), words[9]))
    return found


def _address(raw: bytes) -> str:
    """The kernel prints each group of four bytes in the host's order, which is little-endian here."""
    ordered = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, ordered)
