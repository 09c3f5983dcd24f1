"""What the host has: memory and disk, in bytes."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def total_memory() -> int:
    """Bytes of memory of the host."""
    if sys.platform == "win32":
        import ctypes

        class MemoryStatus(ctypes.Structure):
            # MEMORYSTATUSEX, sysinfoapi.h
            _fields_ = [
                ("length", ctypes.c_uint32),
                ("load", ctypes.c_uint32),
                ("total", ctypes.c_uint64),
                ("rest", ctypes.c_uint64 * 6),
            ]

        status = MemoryStatus()
        status.length = ctypes.sizeof(MemoryStatus)
        if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
            raise OSError(ctypes.get_last_error(), "GlobalMemoryStatusEx")
        return int(status.total)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_memory() -> int | None:
    """Bytes of memory that a new process could have now; None where the system does not tell us."""
    if sys.platform != "linux":
        return None
    try:
        rows = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = next((row.split() for row in rows if row.startswith("MemAvailable:")), [])
    return int(found[1]) << 10 if len(found) > 1 else None


def own_memory() -> int:
    """Resident bytes of this process, 0 where the system does not tell us."""
    if sys.platform != "linux":
        return 0
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def resident_memory(pid: int) -> int:
    """Bytes of memory that a process of ours has in use; 0 where it has ended."""
    if sys.platform == "linux":
        try:
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except FileNotFoundError:
            return 0
    from proa.system.processes import run

    told = run(["ps", "-o", "rss=", "-p", str(pid)], timeout=10).stdout.strip()
    return int(told) << 10 if told.isdigit() else 0


def free_disk(path: Path) -> int:
    """Bytes that the user may still write on the disk that holds `path` (or its nearest parent)."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free
