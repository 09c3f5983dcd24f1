"""`proa logs`: what the agent, the guest's console, the engine, containerd or the guest agent wrote."""

from __future__ import annotations

import sys

import click

from proa.cli.common import agent, machine_name, name_argument
from proa.model.api import LOG_SOURCES


@click.command(epilog="Example:  proa logs -f --source engine")
@name_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option(
    "--source",
    type=click.Choice(LOG_SOURCES),
    default="console",
    show_default=True,
    help="Whose log: Proa's agent, the guest's console, the Docker engine, containerd, the guest agent.",
)
@click.option(
    "-n", "--lines", type=click.IntRange(0, 10_000), default=100, show_default=True, help="How many lines."
)
def logs_verb(name: str | None, follow: bool, source: str, lines: int) -> None:
    """The last lines of a log; of a machine that was stopped, what was kept of it.

    The logs of the engine, containerd and the guest agent lie in the guest: they need a machine that
    runs, or one that was stopped in order.
    """
    terminal = sys.stdout.isatty()
    with agent() as client:
        for chunk in client.logs(machine_name(name), source, lines, follow):
            if terminal:
                click.echo(_safe(chunk), nl=False)
            else:
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()


def _safe(chunk: bytes) -> str:
    """Without what would move the terminal's cursor: the guest decides what stands in its logs."""
    text = chunk.decode("utf-8", "replace")
    return "".join(char if char.isprintable() or char in "\n\t" else "" for char in text)
