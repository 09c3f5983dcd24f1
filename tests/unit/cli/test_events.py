"""One event as a line for a person."""

from __future__ import annotations

import re

from proa.cli.events import line
from proa.model.events import Event, EventKind
from proa.model.problem import Problem


def test_a_line_says_when_who_what_and_what_was_done() -> None:
    event = Event(
        number=3,
        time=1_750_000_000.5,
        kind=EventKind.PROBLEM,
        machine="work",
        message="the guest's kernel gave up",
        done="it is started again in 1 s (attempt 1 of 3)",
        problem=Problem(code="guest-panicked", message="x"),
    )
    assert re.fullmatch(
        r"2025-06-1\d \d\d:\d\d:\d\d  work        problem  the guest's kernel gave up \[guest-panicked\]; "
        r"it is started again in 1 s \(attempt 1 of 3\)",
        line(event),
    )


def test_what_a_guest_says_moves_no_cursor() -> None:
    shown = line(Event(number=1, time=0, kind=EventKind.REPAIR, message="\x1b[2Jdockerd\nended"))
    assert "\x1b" not in shown and "\n" not in shown
    assert "  -  " in shown, "the agent's own"
