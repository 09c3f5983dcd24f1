"""Pure: whether the host slept, or somebody set its clock, from two clocks read now and then."""

from __future__ import annotations

LEAST_JUMP = 1.0  # seconds; a guest whose clock is off by less is right enough


class ClockWatch:
    """`look` with the wall clock and a monotonic one that stands still while the host sleeps."""

    def __init__(self) -> None:
        self._apart: float | None = None

    def look(self, wall: float, monotonic: float) -> float:
        """Seconds that the wall clock jumped since the last look; 0.0 where it went on as time does."""
        apart = wall - monotonic
        before, self._apart = self._apart, apart
        if before is None or abs(apart - before) < LEAST_JUMP:
            # Small steps are kept in mind, so that many of them are one jump in the end.
            self._apart = apart if before is None else before
            return 0.0
        return apart - before
