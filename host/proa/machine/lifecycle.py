"""The pure part of a machine's life: its state from facts, and what a boot waits for."""

from __future__ import annotations

from dataclasses import dataclass

from proa.model.machine import MachineState
from proa.model.problem import Problem

REBOOTED = "host-rebooted"  # the one problem with which a machine is simply stopped


@dataclass(frozen=True)
class Facts:
    """What is known of one machine at one moment; nothing here is a remembered state."""

    exists: bool
    operation: MachineState | None = None  # STARTING, STOPPING or SUSPENDING while the agent is at it
    alive: bool = False  # a hypervisor holds the machine's lock
    engine_answers: bool = False
    suspended: bool = False  # there is a memory image of it with its containers
    config_problem: Problem | None = None
    health_problem: Problem | None = None  # what the guest or the link says is wrong
    wanted_running: bool = False  # the last operation left it running, in this boot of the host
    last_problem: Problem | None = None  # why the last start failed, or why it ended
    recovering: Problem | None = None  # why it is being started again by itself
    notice: Problem | None = None  # what a person should know though the engine answers


def derive(name: str, facts: Facts) -> tuple[MachineState, Problem | None]:
    """The state and its problem. `running` means that the engine answered, nothing less."""
    if not facts.exists:
        return MachineState.ABSENT, None
    if facts.operation is not None:
        return facts.operation, facts.recovering
    if facts.alive:
        if facts.engine_answers:
            return MachineState.RUNNING, facts.config_problem or facts.notice
        return MachineState.BROKEN, facts.health_problem or engine_silent(name)
    return _down(name, facts)


def _down(name: str, facts: Facts) -> tuple[MachineState, Problem | None]:
    """The state of a machine without a hypervisor."""
    if facts.suspended and facts.config_problem is None:
        return MachineState.SUSPENDED, facts.recovering or facts.last_problem
    problem = facts.config_problem or facts.recovering or facts.last_problem
    if problem is not None and problem.code == REBOOTED:
        return MachineState.STOPPED, problem
    if problem is None and facts.wanted_running:
        problem = died(name)
    return (MachineState.STOPPED if problem is None else MachineState.BROKEN), problem


def engine_silent(name: str) -> Problem:
    return Problem(
        code="engine-silent",
        message=f"the engine of {name!r} does not answer",
        why="its guest is up, but nothing answered on the engine's socket",
        hint=f"dockerd is restarted by itself if that lasts; look at: proa logs {name} --source engine",
        layer="engine",
    )


def rebooted(name: str) -> Problem:
    return Problem(
        code=REBOOTED,
        message=f"the machine {name!r} was running when this computer was restarted",
        why="a restart of the computer ends all machines; its disk is as at a power cut, and is checked",
        hint=f"the next docker command starts it; or at once: proa start {name}",
        layer="hypervisor",
    )


def died(name: str) -> Problem:
    return Problem(
        code="machine-died",
        message=f"the machine {name!r} ended by itself",
        why="its hypervisor is gone, and nobody asked it to stop",
        hint=f"proa start {name}",
        layer="hypervisor",
    )


@dataclass(frozen=True)
class Bound:
    """Most seconds that a layer may take to come up, on hardware and under software emulation."""

    hardware: float
    emulated: float

    def seconds(self, accelerator: str) -> float:
        return self.emulated if accelerator == "tcg" else self.hardware


# Five times and more of what MEASURED.md shows, so that a busy host is not taken for a broken one.
BOUNDS = {
    "kernel": Bound(30, 120),
    "guest-agent": Bound(30, 120),
    "network": Bound(15, 60),
    "containerd": Bound(60, 180),
    "engine": Bound(90, 300),
}
