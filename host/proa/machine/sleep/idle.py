"""When a machine that nobody uses is suspended by itself. The decision is pure."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

MOST_KEPT = 256  # streams that have ended and are still remembered


@dataclass(frozen=True)
class Use:
    """What is seen of a machine's use at one moment.

    Held `events` streams and the agent's own questions are no use; a request under way, an attached
    terminal, `logs -f`, a build, a shell and an open connection to a published port are.
    """

    busy: bool  # something of that kind is going on
    last: float  # when something of that kind was last begun or heard; the clock of `IdleClock.look`
    containers: int  # that run


class IdleClock:
    """Looks at a machine's use now and then; times are seconds of one monotonic clock."""

    def __init__(self, after: float | None = None, *, with_containers: bool = False) -> None:
        self._since: float | None = None
        self.set(after, with_containers=with_containers)

    def set(self, after: float | None, *, with_containers: bool) -> None:
        """`after`: seconds without use, None for never; `with_containers`: also while containers run."""
        self._after = after
        self._with_containers = with_containers

    def look(self, now: float, use: Use) -> bool:
        """True when it is to be suspended."""
        if self._after is None or use.busy or (use.containers and not self._with_containers):
            self._since = None
            return False
        if self._since is None:
            self._since = now
        self._since = max(self._since, use.last)
        return now - self._since >= self._after


class OpenStreams:
    """Streams that were opened for somebody: shells, and connections to published ports.

    Those to the engine are left out: its proxy knows which of them is used.
    """

    def __init__(self) -> None:
        self._open: set[asyncio.Transport] = set()

    def opened(self, target: str, transport: asyncio.Transport) -> None:
        if target != "engine":
            self._open.add(transport)
            if len(self._open) % MOST_KEPT == 0:
                self.any()

    def any(self) -> bool:
        """Whether one of them is still open."""
        self._open = {transport for transport in self._open if not transport.is_closing()}
        return bool(self._open)
