"""`proa events`: what happened to the machines, and what was done about it."""

from __future__ import annotations

import time

import click
import msgspec

from proa.cli.common import agent, json_option
from proa.model.events import Event
from proa.model.names import check_name
from proa.model.showing import plain


@click.command(epilog="Example:  proa events -f")
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on.")
@click.option(
    "-n", "--lines", type=click.IntRange(0, 10_000), default=100, show_default=True, help="How many."
)
@json_option
def events_verb(name: str | None, follow: bool, lines: int, as_json: bool) -> None:
    """What happened to the machines, or to the one that is named, and what was done about it.

    With --json each event is one line: number, time, kind, machine, message, done, problem.
    """
    machine = check_name(name) if name is not None else ""
    with agent() as client:
        for event in client.events(lines, follow=follow, machine=machine):
            click.echo(msgspec.json.encode(event).decode() if as_json else line(event))


def line(event: Event) -> str:
    """One event for a person."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
    code = f" [{event.problem.code}]" if event.problem else ""
    done = f"; {event.done}" if event.done else ""
    return plain(f"{when}  {event.machine or '-':<10}  {event.kind:<7}  {event.message}{code}{done}")
