"""What the guest does around a memory image: stand still before it, mend itself after it.

Orders of the control stream (`op`), each answered when it is done:

    freeze       stop the processes of all containers, and (`everywhere`) find their connections to the
                 outside                                     -> late: names that did not stop in time
    sync         write all file systems out                  -> done
    thaw         let them go on                              -> done
    wake         time, seed, nonce, everywhere: clock, random pool, new link secret, old link streams closed,
                 connections to the outside ended (`everywhere`: of containers too) -> ended; whether `thaw`
                 or `bring-back` would find anything to do: due; and the engine's state as it answered
                 afterwards, unless the host has a request for it that will show it (`ask` is false): engine
    halt         stop all containers gracefully, and note those that a reboot would bring back -> stopped
    bring-back   start what was noted                        -> started, not_started

`wake` renews the link's secret: both sides derive it from the old one and the nonce (wire.renewed), so
that it never crosses the wire.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Callable

from proa_guest import outside, wire
from proa_guest.containers import Containers

CGROUPS = "/sys/fs/cgroup"
FREEZE_TIMEOUT = 5.0  # seconds; a process in the middle of slow I/O stops a little later
# Seconds of running after which containers go on by themselves, should the host have died meanwhile.
# The clock stands still while the machine sleeps.
FORGOTTEN = 45.0
# linux/random.h: _IOW('R', 0x03, int[2]) and _IO('R', 0x07)
RNDADDENTROPY, RNDRESEEDCRNG = 0x40085203, 0x5207
MOST_SEED = 512


class Sleeper:
    """The guest's part of a save and of a restore."""

    def __init__(self, containers: Containers, cgroups: str = CGROUPS) -> None:
        self._containers = containers
        self._cgroups = cgroups
        self._frozen: list[str] | None = None  # None: not known, an earlier agent may have frozen some
        self._elsewhere: outside.Elsewhere | None = None  # as it is while they are frozen

    def orders(self) -> dict[str, Callable[[dict[str, object]], dict[str, object]]]:
        """By name; each blocks until it is done. Raises OSError, wire.WireError."""
        return {
            "sync": self._sync,
            "thaw": self._thaw,
            "halt": self._halt,
            "bring-back": self._bring_back,
        }

    # -- standing still -----------------------------------------------------------------------

    def freeze(self, content: dict[str, object]) -> dict[str, object]:
        """Stop all containers' processes, within FREEZE_TIMEOUT."""
        groups = self._groups()
        self._frozen = groups
        for group in groups:
            self._write(group, "1")
        deadline = time.monotonic() + FREEZE_TIMEOUT
        late = groups
        while late and time.monotonic() < deadline:
            late = [group for group in late if not self._stands_still(group)]
            if late:
                time.sleep(0.005)
        self._forget_elsewhere()
        if content.get("everywhere") is True and not late:
            with contextlib.suppress(OSError):  # then it is looked for after the wake
                self._elsewhere = outside.find_elsewhere()
        return {"late": late}

    def forgotten(self) -> None:
        """Nobody said how a freeze goes on: containers do, by themselves."""
        if self._frozen:
            self._thaw({})

    def due(self) -> bool:
        """Whether containers wait to be thawed, or to be brought back; groups without any are thawed here."""
        try:
            if self._frozen is None or any(map(self._is_populated, self._frozen)):
                return True
            self._thaw({})
        except OSError:
            return True  # whoever orders it is told
        return self._containers.noted()

    def _thaw(self, content: dict[str, object]) -> dict[str, object]:
        for group in self._groups() if self._frozen is None else self._frozen:
            self._write(group, "0")
        self._frozen = []
        self._forget_elsewhere()
        return {"done": True}

    # -- mending ------------------------------------------------------------------------------

    def goes_elsewhere(self, content: dict[str, object]) -> bool:
        """Whether to `mend` goes to the namespaces of containers, and so takes a thread of its own."""
        known = self._elsewhere
        return content.get("everywhere") is not False and (
            known is None or bool(len(known)) or known.may_be_more()
        )

    def mend(self, content: dict[str, object], *, elsewhere: bool) -> int:
        """Clock, random pool and connections to the outside, after a restore; how many of those were ended.

        `elsewhere` is what `goes_elsewhere` said. Raises OSError, wire.WireError.
        """
        mend_clock_and_pool(content)
        ended = outside.end_here()
        return ended + self._end_elsewhere() if elsewhere else ended

    def _end_elsewhere(self) -> int:
        if self._elsewhere is None or self._elsewhere.may_be_more():
            self._forget_elsewhere()
            self._elsewhere = outside.find_elsewhere()
        return self._elsewhere.end()

    def _forget_elsewhere(self) -> None:
        known, self._elsewhere = self._elsewhere, None
        if known is not None:
            known.close()

    def _sync(self, content: dict[str, object]) -> dict[str, object]:
        os.sync()
        return {"done": True}

    def _groups(self) -> list[str]:
        """The topmost control groups that hold containers, and none of ours."""
        ours = _own_groups()
        with os.scandir(self._cgroups) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and entry.name not in ours)

    def _write(self, group: str, value: str) -> None:
        try:
            with open(f"{self._cgroups}/{group}/cgroup.freeze", "w", encoding="ascii") as file:  # noqa: PTH123
                file.write(value)
        except FileNotFoundError:
            return  # its last container has ended

    def _stands_still(self, group: str) -> bool:
        told = self._events(group)
        return told.get("frozen") == "1" or told.get("populated") == "0"

    def _is_populated(self, group: str) -> bool:
        return self._events(group).get("populated") != "0"

    def _events(self, group: str) -> dict[str, str]:
        """cgroup.events of a group; of one that is gone, that no process is in it."""
        try:
            with open(f"{self._cgroups}/{group}/cgroup.events", encoding="ascii") as file:  # noqa: PTH123
                words = file.read().split()
        except FileNotFoundError:
            return {"populated": "0"}
        return dict(zip(words[::2], words[1::2], strict=False))

    # -- containers ---------------------------------------------------------------------------

    def _halt(self, content: dict[str, object]) -> dict[str, object]:
        timeout = content.get("timeout")
        if not isinstance(timeout, (int, float)) or not 0 < timeout < 3600:
            raise wire.WireError("that is no timeout")
        return self._containers.halt(float(timeout))

    def _bring_back(self, content: dict[str, object]) -> dict[str, object]:
        self._thaw({})  # one that a client started in the last moment
        return self._containers.bring_back()


def mend_clock_and_pool(content: dict[str, object]) -> None:
    """Set the clock and mix new bytes into the random pool. Raises OSError, wire.WireError."""
    now, seed = content.get("time"), content.get("seed")
    if not isinstance(now, (int, float)) or not 0 < now < 1 << 40 or not isinstance(seed, str):
        raise wire.WireError("that is no time, or no seed")
    time.clock_settime(time.CLOCK_REALTIME, now)
    try:
        fresh = bytes.fromhex(seed)[:MOST_SEED]
    except ValueError as error:
        raise wire.WireError("that is no seed") from error
    reseed(fresh)


def reseed(fresh: bytes) -> None:
    """Two guests from one image must not draw the same numbers: mix in what the host has drawn now."""
    pool = os.open("/dev/random", os.O_WRONLY)
    try:
        # struct rand_pool_info: bits of entropy, bytes, the bytes.
        fcntl.ioctl(pool, RNDADDENTROPY, struct.pack("ii", len(fresh) * 8, len(fresh)) + fresh)
        fcntl.ioctl(pool, RNDRESEEDCRNG)
    finally:
        os.close(pool)


def _own_groups() -> set[str]:
    """Topmost control groups of process 1 and its children: the engine, its shims, the guest's services."""
    found = set()
    with os.scandir("/proc") as entries:
        pids = [entry.name for entry in entries if entry.name.isdigit()]
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
                # proc(5): behind the name in brackets come the state and the parent's pid.
                parent = file.read().rpartition(b") ")[2].split()[1]
            if parent != b"1" and pid not in ("1", str(os.getpid())):
                continue
            with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                path = file.read().strip().rpartition("::")[2]
        except (OSError, IndexError):
            continue  # it has ended
        found.add(path.strip("/").partition("/")[0])
    return found
