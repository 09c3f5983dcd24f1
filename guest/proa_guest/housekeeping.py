"""Gives back what a quiet guest holds for nothing: cached pages to the host, unused blocks to its disk.

Free pages go back by themselves (the balloon's free-page reporting), where a whole block of 2 MiB is free;
cached ones are not free until they are dropped, and lie between others that stay. The data disk is mounted
with `discard`; the trim finds what was freed while that failed.
"""

from __future__ import annotations

import asyncio
import os
import sys

LOOK = 5.0  # seconds between looks
# Of one processor; whoever works takes more. The guest's own looks at its services take as much as 0.2 of an
# emulated one.
QUIET_SHARE = 0.3
QUIET_FOR = 60.0  # seconds of quiet before anything is done
LEAST_CACHE = 64 << 20  # bytes of cache that came since the last time: less is not worth reading it again
TRIM_EVERY = 86_400.0  # seconds of running
TRIM_TIMEOUT = 600.0
SHRINK, TRIM = "shrink", "trim"


class Housekeeper:
    """Pure: what is to be done, from looks. Times are seconds of a monotonic clock, which a sleep stops."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._quiet_since: float | None = None
        self._kept = 0  # bytes of cache that were left the last time
        self._trimmed = 0.0

    def look(self, now: float, busy: float, cache: int) -> list[str]:
        """`busy`: seconds that all processors together have worked; `cache`: bytes of files' pages."""
        last, self._last = self._last, (now, busy)
        if last is None:
            self._trimmed = now
            return []
        if busy - last[1] > QUIET_SHARE * (now - last[0]):
            self._quiet_since = None
            return []
        if self._quiet_since is None:
            self._quiet_since = last[0]
        if now - self._quiet_since < QUIET_FOR:
            return []
        chores = []
        self._kept = min(self._kept, cache)
        if cache - self._kept >= LEAST_CACHE:
            chores.append(SHRINK)
        if now - self._trimmed >= TRIM_EVERY:
            self._trimmed = now
            chores.append(TRIM)
        return chores

    def shrunk(self, cache: int) -> None:
        """That much could not be dropped: it is in use."""
        self._kept = cache


async def keep_house(disk: str) -> None:
    """Look for ever, and do what is to be done; `disk` is where the data disk is mounted."""
    keeper = Housekeeper()
    now = asyncio.get_running_loop().time
    while True:
        for chore in keeper.look(now(), busy(), cache()):
            if chore == SHRINK:
                await asyncio.to_thread(_drop_cache)
                keeper.shrunk(cache())
            else:
                await _trim(disk)
        await asyncio.sleep(LOOK)


def busy(path: str = "/proc/stat") -> float:
    """Seconds that all processors together have worked since the boot."""
    with open(path, encoding="ascii") as file:  # noqa: PTH123
        words = file.readline().split()
    # proc(5): user, nice, system, idle, iowait, irq, softirq, steal, in clock ticks.
    ticks = [int(word) for word in words[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def cache(path: str = "/proc/meminfo") -> int:
    """Bytes of pages that hold what is in files."""
    with open(path, encoding="ascii") as file:  # noqa: PTH123
        found = dict(line.split(":", 1) for line in file)
    return sum(int(found[name].split()[0]) << 10 for name in ("Active(file)", "Inactive(file)"))


def _drop_cache() -> None:
    # proc_sys_vm(5): clean pages only; what is to be written stays. Then what is free is moved together:
    # after a boot 55 MiB went back to the host with that, and nothing without.
    for name in ("drop_caches", "compact_memory"):
        with open(f"/proc/sys/vm/{name}", "w", encoding="ascii") as file:  # noqa: PTH123
            file.write("1")


async def _trim(disk: str) -> None:
    process = await asyncio.create_subprocess_exec("fstrim", disk)
    try:
        async with asyncio.timeout(TRIM_TIMEOUT):
            status = await process.wait()
    except TimeoutError:
        process.kill()
        status = await process.wait()
    if status:
        sys.stderr.write(f"agent: fstrim {disk} ended with {status}\n")
