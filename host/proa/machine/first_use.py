"""When who started or woke a machine is served, so that what nobody waits for may begin. Pure.

Right after a restore an emulated processor is the limit: each of the agent's own questions, of the streams
that it parks and of the share server's first frames makes the first `docker version` wait a little longer.
"""

from __future__ import annotations

LOOK = 0.05  # seconds between looks
GAP = 0.2  # seconds without a request after which its client is served; a CLI's next follows at once
PATIENCE = 1.0  # seconds that a first request may take to come
MOST = 3.0  # seconds in all: one that goes on is no reason to wait


class FirstUse:
    """Looks at the use of a machine that came up at `up`; times are seconds of one monotonic clock."""

    def __init__(self, up: float) -> None:
        self._up = self._last = up

    def is_served(self, now: float, *, busy: bool, last: float) -> bool:
        """`busy`: a client waits for an answer; `last`: when one last said something."""
        self._last = now if busy else max(self._last, last)
        quiet = now - self._last >= (PATIENCE if self._last == self._up else GAP)
        return quiet or now - self._up >= MOST
