"""Pure: how a running machine is, from looks at it every few seconds; what to say and to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from proa.drivers.base import Stall
from proa.link.control import GuestStatus
from proa.machine.lifecycle import Bound
from proa.model.events import EventKind
from proa.model.problem import Problem
from proa.model.sizes import MIB

INTERVAL = 2.0  # seconds between looks
SILENT_AFTER = 10.0  # seconds of silence after which it is said
# Seconds of silence after which nothing is left but to restart the machine. The guest's own init ends a
# guest agent that hangs after 30 s and starts it again: this is for a guest that does not even do that.
HUNG = Bound(hardware=90, emulated=240)
# The same while somebody waits for it: QEMU answers within a moment if it does at all.
HUNG_HYPERVISOR = Bound(hardware=10, emulated=20)
HUNG_GUEST = Bound(hardware=45, emulated=90)
# Seconds that a guest's clock may be wrong: it starts with whole seconds only, stands still while the host
# sleeps, and falls behind in an emulated guest that gets no processor.
CLOCK_TOLERANCE = 0.5
CLOCK_NEWS = 10.0  # seconds; a correction by more than that is told
LEAST_ROOM = 64 * MIB  # a guest that goes on with less is paused again at once
FIRST_RETRY, MOST_RETRY = 2.0, 30.0  # seconds between attempts to let a paused guest go on
OOM_SHOWN = 600.0  # seconds for which the status tells that the guest ran out of memory
SERVICES = ("agent", "containerd", "dockerd")


@dataclass(frozen=True)
class Look:
    """What one look found. `room` is in bytes, on the disk that holds the machine's."""

    now: float
    hypervisor_answers: bool = True
    guest_answers: bool = True
    stall: Stall | None = None
    room: int = 0
    clock_off: float = 0.0  # seconds that the guest's clock is ahead of the host's (behind: negative)


@dataclass(frozen=True)
class Say:
    kind: EventKind
    message: str
    done: str = ""
    problem: Problem | None = None


@dataclass(frozen=True)
class GoOn:
    """Let a guest that the hypervisor paused go on."""


@dataclass(frozen=True)
class SetClock:
    """Give the guest the host's time."""


@dataclass(frozen=True)
class Restart:
    """Nothing else is left: end the machine and start it again."""

    problem: Problem


Action = Say | GoOn | SetClock | Restart


class Health:
    """One run of a machine."""

    def __init__(self, name: str, accelerator: str, place: str) -> None:
        self._name = name
        self._hung_after = HUNG.seconds(accelerator)
        self._place = place  # the folder of the machine's disk, for people
        self._last = 0.0
        self._silence = 0.0
        self._retry = FIRST_RETRY
        self._retry_at = 0.0
        self.problem: Problem | None = None
        self.paused = False  # by the hypervisor, as it cannot write

    def look(self, look: Look) -> list[Action]:
        """The next look; what to say and to do."""
        # A host that slept, or was too busy to look, has not heard silence all that time.
        passed = min(look.now - self._last, 2 * INTERVAL) if self._last else 0.0
        self._last = look.now
        if look.stall is not None:
            self._silence = 0.0
            return self._stalled(look, look.stall)
        if self.paused:
            return self._went_on()
        return self._heard(look, passed)

    def _stalled(self, look: Look, stall: Stall) -> list[Action]:
        self.problem = disk_problem(self._name, stall, self._place, look.room)
        if not self.paused:
            self.paused, self._retry, self._retry_at = True, FIRST_RETRY, look.now + FIRST_RETRY
            done = "paused; it goes on by itself as soon as its disk can be written"
            return [Say(EventKind.PROBLEM, self.problem.message, done, self.problem)]
        if look.now < self._retry_at or (stall is Stall.NO_SPACE and look.room < LEAST_ROOM):
            return []
        self._retry_at = look.now + self._retry
        self._retry = min(self._retry * 2, MOST_RETRY)
        return [GoOn()]

    def _went_on(self) -> list[Action]:
        self.paused, self.problem = False, None
        return [Say(EventKind.REPAIR, "its disk can be written again", "the guest goes on")]

    def _heard(self, look: Look, passed: float) -> list[Action]:
        if look.hypervisor_answers and look.guest_answers:
            was, self.problem, self._silence = self.problem, None, 0.0
            actions: list[Action] = [Say(EventKind.REPAIR, "it answers again")] if was is not None else []
            return actions + _clock(look.clock_off)
        self._silence += passed
        if self._silence < SILENT_AFTER:
            return []
        first = self.problem is None
        self.problem = silent(self._name, hypervisor=not look.hypervisor_answers)
        if self._silence >= self._hung_after:
            self._silence = 0.0
            return [Restart(self.problem)]
        done = f"if that lasts {self._hung_after:.0f} s it is restarted"
        return [Say(EventKind.PROBLEM, self.problem.message, done, self.problem)] if first else []


def _clock(off: float) -> list[Action]:
    if abs(off) <= CLOCK_TOLERANCE:
        return []
    if abs(off) <= CLOCK_NEWS:
        return [SetClock()]
    which = "ahead" if off > 0 else "behind"
    message = f"the guest's clock was {abs(off):.0f} s {which}"
    return [SetClock(), Say(EventKind.REPAIR, message, "set to this computer's time")]


def disk_problem(name: str, stall: Stall, place: str, room: int) -> Problem:
    """What is said while the hypervisor cannot write the machine's disk."""
    if stall is Stall.NO_SPACE:
        return Problem(
            code="host-disk-full",
            message=f"the machine {name!r} is paused: this computer's disk is full",
            why=f"{place} has {room // MIB} MiB free, and the machine's disk must grow to go on",
            hint=f"free {LEAST_ROOM // MIB} MiB or more: it goes on by itself, and nothing is lost",
            layer="hypervisor",
        )
    return Problem(
        code="host-disk-failed",
        message=f"the machine {name!r} is paused: its disk cannot be written",
        why=f"the computer refuses writes to {place}: read-only, or failing",
        hint="make it writable (the system's log says what is wrong with it): the machine goes on by itself",
        layer="hypervisor",
    )


def silence(name: str, look: Look) -> Problem | None:
    """What one look heard nothing of. A guest that is paused for its disk cannot answer."""
    if look.stall is not None or (look.hypervisor_answers and look.guest_answers):
        return None
    return silent(name, hypervisor=not look.hypervisor_answers)


def patience(look: Look, accelerator: str) -> float:
    """Seconds for which what is silent in this look may be so while somebody waits for it."""
    return (HUNG_GUEST if look.hypervisor_answers else HUNG_HYPERVISOR).seconds(accelerator)


def silent(name: str, *, hypervisor: bool) -> Problem:
    if hypervisor:
        return Problem(
            code="hypervisor-silent",
            message=f"the hypervisor of {name!r} does not answer",
            why="its process is there, but it is stopped or hangs",
            hint=f"it is restarted if that lasts; at once: proa restart {name}",
            layer="hypervisor",
        )
    return Problem(
        code="guest-agent-silent",
        message=f"the guest of {name!r} does not answer",
        why="its hypervisor runs, but nothing comes over the link",
        hint=f"it is restarted if that lasts; at once: proa restart {name}",
        layer="guest-agent",
    )


def out_of_memory(name: str, victim: str) -> Problem:
    return Problem(
        code="guest-out-of-memory",
        message=f"the machine {name!r} ran out of memory",
        why=f"its kernel ended {victim}; the engine and its other containers go on",
        hint="limit that container (docker run -m), or give the machine more: proa config set memory 4GiB",
        layer="kernel",
    )


def news(name: str, before: GuestStatus | None, now: GuestStatus) -> list[Say]:
    """What happened between two statuses of the guest; its words are hostile, so only shown."""
    if before is None or now.uptime < before.uptime:
        return []
    said = [item for service in SERVICES for item in _service_news(service, before, now)]
    if now.memory.kills > before.memory.kills:
        problem = out_of_memory(name, now.memory.victim)
        said.append(Say(EventKind.PROBLEM, problem.message, f"the kernel ended {now.memory.victim}", problem))
    if before.disk.state != now.disk.state == "full":
        said.append(Say(EventKind.PROBLEM, now.disk.message or "the machine's disk is full"))
    if before.engine.state == "ready" and now.engine.state == "silent":
        said.append(
            Say(EventKind.PROBLEM, "the engine does not answer", "dockerd is restarted if that lasts")
        )
    if before.engine.state == "silent" and now.engine.state == "ready":
        said.append(Say(EventKind.REPAIR, "the engine answers again"))
    return said


def _service_news(name: str, before: GuestStatus, now: GuestStatus) -> list[Say]:
    old, new = before.services.get(name), now.services.get(name)
    if old is None or new is None or new.restarts <= old.restarts:
        return []
    what = "the guest agent" if name == "agent" else name
    return [Say(EventKind.REPAIR, new.ended or f"{what} ended by itself", f"{what} is started again")]


def notice(name: str, status: GuestStatus, heard_ago: float) -> Problem | None:
    """What a person should know of a machine whose engine answers all the same."""
    return _containerd_notice(name, status) or memory_notice(name, status, heard_ago)


def _containerd_notice(name: str, status: GuestStatus) -> Problem | None:
    """dockerd goes on without containerd, and answers; but it can start and end nothing."""
    containerd = status.services.get("containerd")
    if containerd is None or containerd.state == "ready" or status.engine.state == "starting":
        return None
    hangs = containerd.state == "silent"
    return Problem(
        code="containerd-silent",
        message=f"containerd of {name!r} " + ("does not answer" if hangs else "is being started again"),
        why="containers go on, but none can be started or stopped meanwhile",
        hint=f"nothing to do, it is started again by itself; its log: proa logs {name} --source containerd",
        layer="containerd",
    )


def memory_notice(name: str, status: GuestStatus, heard_ago: float) -> Problem | None:
    """What the status of a running machine tells of memory that ran out lately."""
    memory = status.memory
    ago = status.uptime - memory.at + heard_ago
    return out_of_memory(name, memory.victim) if memory.kills and ago < OOM_SHOWN else None
