"""Pure: the order of a save and of a restore, what is undone where a step fails, what a dead agent left.

A memory image belongs to one state of the disk. So it is marked ready only while the guest stands still,
and is consumed before the guest runs one instruction.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Step(enum.StrEnum):
    """What is done, one after the other. The values are for the log."""

    # a save
    FREEZE = "freeze containers"
    SYNC = "sync"
    PAUSE = "pause"
    SAVE = "save"
    VERIFY = "verify"
    READY = "mark ready"
    END = "end the hypervisor"
    # a restore
    CHECK = "check the image"
    LOAD = "load"
    CONSUME = "consume the image"
    RUN = "run"
    MEND = "mend the guest"  # clock, random pool, connections to the outside, the link's secret
    THAW = "let containers go on"
    # what undoes
    DISCARD = "discard the image"
    RESUME = "resume"
    COLD = "boot cold"
    GIVE_UP = "give up"


SAVE = (Step.FREEZE, Step.SYNC, Step.PAUSE, Step.SAVE, Step.VERIFY, Step.READY, Step.END)
RESTORE = (Step.CHECK, Step.LOAD, Step.CONSUME, Step.RUN, Step.MEND, Step.THAW)


def after_failed_save(step: Step) -> tuple[Step, ...]:
    """What makes the machine run on, as if nobody had asked it to sleep.

    A step that failed may have had its effect all the same, so it is undone too. The image is
    discarded before the guest runs: it would be older than the disk.
    """
    if step in (Step.FREEZE, Step.SYNC):
        return (Step.THAW,)
    if step is Step.PAUSE:
        return (Step.RESUME, Step.THAW)
    return (Step.DISCARD, Step.RESUME, Step.THAW)


def after_failed_restore(step: Step, *, image_at_fault: bool) -> tuple[Step, ...]:
    """What follows a restore that failed at `step`.

    `image_at_fault`: what failed says nothing good of the image itself; else (no free memory, say) it
    is kept, and the machine sleeps on. Once it is consumed there is only the cold boot.
    """
    if step in (Step.CHECK, Step.LOAD):
        return (Step.DISCARD, Step.COLD) if image_at_fault else (Step.GIVE_UP,)
    if step is Step.CONSUME:
        # It may or may not have its new name: nothing has run, but it must not be used twice.
        return (Step.END, Step.DISCARD, Step.COLD)
    return (Step.END, Step.COLD)


@dataclass(frozen=True)
class Left:
    """What an agent that died left: facts only."""

    alive: bool  # a hypervisor of this machine lives
    paused: bool  # and its guest stands still
    has_guest: bool  # there is a guest in it: it is neither waiting for an image nor was it never run
    ready: bool  # a memory image is marked ready
    consumed: bool  # one was consumed, and its files are still there


def after_crash(left: Left) -> tuple[Step, ...]:
    """What a new agent does with it; empty: nothing is to be mended (a running machine is adopted)."""
    if not left.alive:
        return ()
    if left.ready:
        # Marked ready, and the hypervisor that saved it (or began to load it) was not ended any more. If
        # its guest runs, the image is older than the disk.
        return (Step.END,) if left.paused else (Step.DISCARD, Step.THAW)
    if not left.paused:
        return (Step.MEND, Step.THAW) if left.consumed else (Step.THAW,)
    if not left.has_guest:
        return (Step.END,)
    if left.consumed:
        return (Step.RUN, Step.MEND, Step.THAW)
    return (Step.RESUME, Step.THAW)
