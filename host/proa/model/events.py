"""Events: what happened to a machine, and what was done about it. `proa events` shows them.

Whoever has something to say is given an `Emit` by its maker, and calls it once.
"""

from __future__ import annotations

import enum
from typing import Protocol

import msgspec

from proa.model.problem import Problem

EVENT_VERSION = 1


class EventKind(enum.StrEnum):
    STATE = "state"  # a machine was made, started, stopped, deleted, adopted …
    FAILED = "failed"  # what was asked for did not come about
    PROBLEM = "problem"  # something is wrong, and nobody had asked for it
    REPAIR = "repair"  # what Proa did about it by itself, or that it went away
    PORT = "port"  # a published port could not be bound, or now is


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event; the shape of a line of `proa events --json` and of the journal."""

    version: int = EVENT_VERSION
    number: int  # grows by one with each event of an installation
    time: float  # seconds since the epoch
    kind: EventKind
    message: str  # what happened, one line, no full stop
    machine: str = ""  # empty: the agent's own
    done: str = ""  # what was done about it, or will be
    problem: Problem | None = None


class Emit(Protocol):
    """Says that something happened. Never raises, and never waits."""

    def __call__(
        self, kind: EventKind, message: str, *, done: str = "", problem: Problem | None = None
    ) -> None: ...
