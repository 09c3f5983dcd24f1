"""Pure: which service is to be started when, and what is said of each. Events in, state out."""

from __future__ import annotations

FIRST_DELAY = 0.3  # seconds before the first restart
MOST_DELAY = 30.0
WELL_AFTER = 60.0  # a service that ran this long was well: its next restart comes soon again
# Seconds after which a living service that answers nothing is hung. A busy engine under emulation has
# needed 5 s for a ping; what is ended wrongly costs its containers a restart.
HUNG_AFTER = 30.0
SAID_AFTER = 8.0  # seconds of silence after which it is said
START_HUNG_AFTER = 280.0  # below the host's bound for a start under emulation (proa.machine.lifecycle)
LEAST_LOOKS = 5  # and it was looked at this often: a guest that stood still has heard no answers either
# Seconds of running without a look around a memory image: a guest that is emulated answers its first request
# sooner if it has nothing else to do.
REST = 4.0

STARTING, READY, FAILED, BACKOFF, STOPPED = "starting", "ready", "failed", "backoff", "stopped"
SILENT = "silent"  # told only: it was ready, and has not answered for some time


class Service:
    """One supervised process. Times are seconds of a monotonic clock, given by the caller."""

    def __init__(self, name: str, argv: list[str], after: str = "") -> None:
        self.name = name
        self.argv = argv
        self.after = after  # the service that must be ready first
        self.state = STOPPED
        self.restarts = 0
        self.failures = 0  # in a row: since it last ran for a while
        self.message = ""
        self.ended = ""  # how it last ended: kept, for those who look only now and then
        self.seconds = 0.0  # from its start to its first answer, the last time
        self.pid = 0
        self.due = 0.0  # when it may be started (again)
        self._began = 0.0
        self._delay = FIRST_DELAY
        self._silent_since: float | None = None
        self._looks = 0
        self._mute = False
        self._hung = ""

    def wants_start(self, now: float, ready: dict[str, bool]) -> bool:
        return self.pid == 0 and now >= self.due and (not self.after or ready.get(self.after, False))

    def started(self, pid: int, now: float) -> None:
        self.pid, self._began, self.state = pid, now, STARTING
        self._silent_since, self._looks = now, 0

    def answered(self, now: float) -> bool:
        """It accepts work; True if that is news."""
        news = self.state != READY and self.pid != 0
        self._silent_since, self._mute = None, False
        if news:
            self.state, self.message = READY, ""
            self.seconds = round(now - self._began, 2)
        return news

    def silent(self, now: float) -> bool:
        """It was looked at and gave no answer; True if it is hung and must be ended by force."""
        if self.pid == 0:
            return False
        if self._silent_since is None:
            self._silent_since, self._looks = now, 0
        self._looks += 1
        bound, since = HUNG_AFTER if self.state == READY else START_HUNG_AFTER, now - self._silent_since
        if self._looks < LEAST_LOOKS:
            return False
        self._mute = self.state == READY and since >= SAID_AFTER
        if since < bound:
            return False
        self._hung = f"{self.name} did not answer for {bound:.0f} s and was ended"
        return True

    def exited(self, status: int, last_line: str, now: float) -> None:
        """Its process ended: it is due again after a delay that doubles while it keeps failing."""
        if now - self._began > WELL_AFTER:
            self._delay, self.failures = FIRST_DELAY, 0
        how = f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}"
        words = f"{self.name} {how}" + (f": {last_line}" if last_line else "")
        self.message = self.ended = self._hung or words
        self.pid, self.state, self._hung, self._mute = 0, BACKOFF, "", False
        self.restarts += 1
        self.failures += 1
        self.due = now + self._delay
        self._delay = min(self._delay * 2, MOST_DELAY)

    def not_started(self, why: str, now: float) -> None:
        """The process could not even be made."""
        self._began = now
        self.exited(127, why, now)
        self.state = FAILED

    def report(self) -> dict[str, object]:
        return {
            "state": SILENT if self._mute else self.state,
            "restarts": self.restarts,
            "failures": self.failures,
            "message": self.message,
            "ended": self.ended,
            "seconds": self.seconds,
        }


def next_due(services: list[Service], ready: dict[str, bool], now: float) -> float | None:
    """Seconds until a service is to be started, None while none is waiting for its time."""
    waits = [
        max(0.0, service.due - now)
        for service in services
        if service.pid == 0 and (not service.after or ready.get(service.after, False))
    ]
    return min(waits) if waits else None
