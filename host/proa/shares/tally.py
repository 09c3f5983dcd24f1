"""How much is asked of a share server, and what took longest: for people who wonder why it is slow."""

from __future__ import annotations

import threading
from dataclasses import dataclass

RATE_OF = 10  # whole seconds that a rate is taken over
KEPT = 60  # seconds for which the slowest is told


@dataclass(slots=True)
class _Second:
    number: int
    count: int = 0
    slowest: float = -1.0
    op: int = 0


class Tally:
    """Safe for several threads. Times are in seconds, of one clock that never goes back."""

    def __init__(self) -> None:
        self.asked = 0  # requests since it began
        self._seconds = [_Second(-1) for _ in range(KEPT)]
        self._lock = threading.Lock()

    def add(self, op: int, begun: float, ended: float) -> None:
        with self._lock:
            self.asked += 1
            at = int(ended) % KEPT
            if self._seconds[at].number != int(ended):
                self._seconds[at] = _Second(int(ended))
            second = self._seconds[at]
            second.count += 1
            if ended - begun > second.slowest:
                second.slowest, second.op = ended - begun, op

    def rate(self, now: float) -> float:
        """Requests a second, over the last whole seconds."""
        last = int(now)
        with self._lock:
            count = sum(each.count for each in self._seconds if last - RATE_OF <= each.number < last)
        return count / RATE_OF

    def slowest(self, now: float) -> tuple[int, float] | None:
        """The slowest request of the last minute, and the seconds that it took; None without any."""
        with self._lock:
            recent = [each for each in self._seconds if int(now) - KEPT < each.number <= int(now)]
            found = max(recent, key=lambda each: each.slowest, default=None)
            return None if found is None else (found.op, found.slowest)
