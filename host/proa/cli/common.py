"""What several verbs share: the machine's name, the agent, progress, and text from the guest made safe."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from proa.agent.client import AgentClient, ensure_agent
from proa.model.names import DEFAULT_MACHINE, check_name
from proa.system.paths import Places

if TYPE_CHECKING:
    from proa.model.api import Progress

name_argument = click.argument("name", required=False)
json_option = click.option("--json", "as_json", is_flag=True, help="For scripts.")


def machine_name(given: str | None) -> str:
    """The name that was given, PROA_MACHINE's, or `default`. Raises ProaError `bad-name`."""
    if given is None:
        given = os.environ.get("PROA_MACHINE") or DEFAULT_MACHINE
    return check_name(given)


def agent() -> AgentClient:
    return ensure_agent(Places.current())


def plain(text: str) -> str:
    """Text from a guest or an image, without what would move a terminal's cursor."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


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
