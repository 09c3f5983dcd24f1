"""The header of a qcow2 disk, read by ourselves before any tool opens what it may point to.

Format: QEMU's docs/interop/qcow2.txt; numbers are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"QFI\xfb"
LENGTH = 104  # bytes of a version 3 header; version 2 has 72
# Incompatible features: what a reader must know to understand the disk.
DIRTY, CORRUPT, EXTERNAL_DATA, COMPRESSION, EXTENDED_L2 = (1 << bit for bit in range(5))
_HARMLESS = DIRTY | COMPRESSION | EXTENDED_L2


@dataclass(frozen=True)
class Header:
    version: int
    size: int  # of the disk that the guest sees, bytes
    backing: bool  # it stands on another file
    encrypted: bool
    features: int


def parse(data: bytes) -> Header:
    """The header in a disk's first bytes. Raises ValueError."""
    if data[:4] != MAGIC or len(data) < 72:
        raise ValueError("it is no qcow2 disk")
    version, backing, _, _, size, crypt = struct.unpack_from(">IQIIQI", data, 4)
    if version not in (2, 3):
        raise ValueError(f"its qcow2 version is {version}, which nobody knows")
    if version == 3 and len(data) < LENGTH:
        raise ValueError("its header is cut off")
    features = struct.unpack_from(">Q", data, 72)[0] if version == 3 else 0
    return Header(version, size, backing != 0, crypt != 0, features)


def foreign(header: Header) -> str:
    """Why Proa did not make such a disk, in words; empty where it may have."""
    if header.backing:
        return "it stands on another file (a backing file), which Proa did not make"
    if header.features & EXTERNAL_DATA:
        return "its data is in another file (an external data file), which Proa did not make"
    if header.encrypted:
        return "it is encrypted, and Proa makes none that are"
    if header.features & ~(_HARMLESS | CORRUPT):
        return "it has features that Proa's disks do not have"
    return ""


def read(path: Path) -> Header:
    """The header of the disk at `path`. Raises OSError, ValueError."""
    with path.open("rb") as file:
        return parse(file.read(LENGTH))
