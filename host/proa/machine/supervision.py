"""Pure: whether a machine that ended by itself is started again, and when.

What it never does: fight a user's command (`asked` forgets what was planned), go on for ever (the
attempts are bounded, and only a machine that stayed up for a while gets new ones), or hide what
happened (whoever carries a decision out says so).
"""

from __future__ import annotations

from dataclasses import dataclass

DELAYS = (1.0, 5.0, 20.0)  # seconds before each attempt
WELL_AFTER = 300.0  # seconds; a machine that was up this long was well


@dataclass(frozen=True)
class Again:
    """Start it after `delay` seconds; `attempt` counts from 1."""

    attempt: int
    delay: float


@dataclass(frozen=True)
class GiveUp:
    """It stays down until a person starts it."""

    attempts: int


class Supervision:
    """One machine's. Times are seconds of a monotonic clock, given by the caller."""

    def __init__(self) -> None:
        self._attempts = 0
        self._up_since: float | None = None

    def up(self, now: float) -> None:
        """Its engine answers."""
        self._up_since = now

    def asked(self) -> None:
        """A person decided something: what failed before counts no more."""
        self._attempts = 0

    def ended(self, now: float) -> Again | GiveUp:
        """It ended by itself, or an attempt to start it failed."""
        if self._up_since is not None and now - self._up_since >= WELL_AFTER:
            self._attempts = 0
        self._up_since = None
        if self._attempts == len(DELAYS):
            return GiveUp(self._attempts)
        self._attempts += 1
        return Again(self._attempts, DELAYS[self._attempts - 1])
