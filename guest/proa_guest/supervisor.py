"""Pure: which service is to be started when, and what is said of each. Events in, state out."""

from __future__ import annotations

FIRST_DELAY = 0.3  # seconds before the first restart
MOST_DELAY = 30.0
WELL_AFTER = 60.0  # a service that ran this long was well: its next restart comes soon again

STARTING, READY, FAILED, BACKOFF, STOPPED = "starting", "ready", "failed", "backoff", "stopped"


class Service:
    """One supervised process. Times are seconds of a monotonic clock, given by the caller."""

    def __init__(self, name: str, argv: list[str], after: str = "") -> None:
        self.name = name
        self.argv = argv
        self.after = after  # the service that must be ready first
        self.state = STOPPED
        self.restarts = 0
        self.message = ""
        self.pid = 0
        self.due = 0.0  # when it may be started (again)
        self._began = 0.0
        self._delay = FIRST_DELAY

    def wants_start(self, now: float, ready: dict[str, bool]) -> bool:
        return self.pid == 0 and now >= self.due and (not self.after or ready.get(self.after, False))

    def started(self, pid: int, now: float) -> None:
        self.pid, self._began, self.state = pid, now, STARTING

    def answered(self) -> bool:
        """It accepts work; True if that is news."""
        news = self.state != READY and self.pid != 0
        if news:
            self.state, self.message = READY, ""
        return news

    def exited(self, status: int, last_line: str, now: float) -> None:
        """Its process ended: it is due again after a delay that doubles while it keeps failing."""
        if now - self._began > WELL_AFTER:
            self._delay = FIRST_DELAY
        how = f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}"
        self.message = f"{self.name} {how}" + (f": {last_line}" if last_line else "")
        self.pid, self.state = 0, BACKOFF
        self.restarts += 1
        self.due = now + self._delay
        self._delay = min(self._delay * 2, MOST_DELAY)

    def not_started(self, why: str, now: float) -> None:
        """The process could not even be made."""
        self._began = now
        self.exited(127, why, now)
        self.state = FAILED

    def report(self) -> dict[str, object]:
        return {"state": self.state, "restarts": self.restarts, "message": self.message}


def next_due(services: list[Service], ready: dict[str, bool], now: float) -> float | None:
    """Seconds until a service is to be started, None while none is waiting for its time."""
    waits = [
        max(0.0, service.due - now)
        for service in services
        if service.pid == 0 and (not service.after or ready.get(service.after, False))
    ]
    return min(waits) if waits else None
