"""What several verbs share: the machine's name, the agent, progress, and text from the guest made safe."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proa.model.errors import ProaError
from proa.model.names import DEFAULT_MACHINE, check_name
from proa.model.showing import plain
from proa.system.locks import is_held
from proa.system.paths import Places

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from proa.agent.client import AgentClient
    from proa.model.api import Progress

PATIENCE = 5.0  # seconds for an agent that a doctor asks how it is


def _machines(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from proa.cli.completion import machine_items

    return machine_items(incomplete)


name_argument = click.argument("name", required=False, shell_complete=_machines)
json_option = click.option("--json", "as_json", is_flag=True, help="Print it as JSON, for scripts.")


def machine_name(given: str | None) -> str:
    """The name that was given, PROA_MACHINE's, or `default`. Raises ProaError `bad-name`."""
    if given is None:
        given = os.environ.get("PROA_MACHINE") or DEFAULT_MACHINE
    return check_name(given)


def machine_names(folder: Path) -> list[str]:
    """Names of the machines on disk, sorted; for those who must not start an agent to know them."""
    try:
        entries = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    except OSError:
        return []
    return sorted(name for name in entries if _is_name(name))


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except ProaError:
        return False
    return True


def agent() -> AgentClient:
    """The agent, started where it is not there. Raises ProaError `agent-did-not-start` …"""
    # Imported when used: whoever only completes a word or reads a help needs no client.
    from proa.agent.client import ensure_agent

    return ensure_agent(Places.current())


def reach_agent(places: Places) -> tuple[AgentClient | None, ProaError | None]:
    """The agent, or why it is not there; for verbs that must help exactly then. Never raises ProaError.

    An agent that holds its lock and does not answer is left alone: it is not ours to judge why.
    """
    from proa.agent.client import AgentClient, ensure_agent

    try:
        AgentClient(places, timeout=PATIENCE).info()
    except ProaError as error:
        if is_held(places.agent_lock):
            return None, _silent_agent(places, error)
    try:
        return ensure_agent(places), None
    except ProaError as error:
        return None, error


def _silent_agent(places: Places, error: ProaError) -> ProaError:
    try:
        pid = places.agent_lock.read_text().strip()
    except OSError:
        pid = ""
    pid = pid if pid.isdecimal() else "?"
    return ProaError(
        "agent-silent",
        f"the agent is there and does not answer (pid {pid})",
        why=error.why or error.message,
        hint=f"end it, machines go on running: kill {pid} (or kill -9 {pid}); the next verb starts a new one",
    )


@contextmanager
def progress() -> Iterator[Callable[[Progress], None]]:
    """Says what is going on: one line that changes on a terminal, a line a step elsewhere; to stderr."""
    if not sys.stderr.isatty():
        yield _PlainLines()
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    began = time.monotonic()
    with console.status("…") as status:
        last = ""

        def say(step: Progress) -> None:
            nonlocal last
            percent = "" if step.fraction is None else f" {_bar(step.fraction)}"
            status.update(Text(plain(step.message) + percent))
            if step.message != last:
                last = step.message
                console.print(Text(f"{time.monotonic() - began:6.1f} s  {plain(step.message)}", style="dim"))

        yield say


def _bar(fraction: float, width: int = 30) -> str:
    done = int(max(0.0, min(fraction, 1.0)) * width)
    return f"[{'#' * done}{'.' * (width - done)}] {fraction:4.0%}"


class _PlainLines:
    """A line a step, and one for every quarter of it."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    def __call__(self, step: Progress) -> None:
        quarter = 0 if step.fraction is None else int(step.fraction * 4)
        if step.fraction is not None and (step.message, quarter) == self._last:
            return
        self._last = (step.message, quarter)
        percent = f": {step.fraction:.0%}" if step.fraction is not None else ""
        print(f"proa: {plain(step.message)}{percent}", file=sys.stderr, flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns; every cell made safe."""
    cells = [[plain(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )
