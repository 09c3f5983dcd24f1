"""`proa shell`: a command in the guest, with this terminal or with plain pipes."""

from __future__ import annotations

import contextlib
import os
import sys

import click

from proa.cli.common import agent, machine_name
from proa.cli.session import Session, raw_terminal, window
from proa.model.api import ExecRequest
from proa.model.errors import ProaError


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example:  proa shell -- uname -a",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[NAME] [-- COMMAND...]")
def shell_verb(words: tuple[str, ...]) -> int:
    """A shell in the guest, as root, or the command behind `--`.

    The exit status is the command's own, 128 + n for signal n.
    """
    given, argv = _split(words, sys.argv)
    name = machine_name(given)
    tty = os.isatty(0) and os.isatty(1)
    rows, columns = window()
    request = ExecRequest(argv=argv, tty=tty, rows=rows, columns=columns, term=os.environ.get("TERM", "dumb"))
    with (
        agent() as client,
        contextlib.closing(client.execute(name, request)) as connection,
        raw_terminal() if tty else contextlib.nullcontext(),
    ):
        return Session(connection, resizes=tty).run()


def _split(words: tuple[str, ...], typed: list[str]) -> tuple[str | None, tuple[str, ...]]:
    """NAME and COMMAND. click takes a `--` away where no name stands before it, so what was typed says where
    the command begins."""
    if "--" in typed:
        command = tuple(typed[typed.index("--") + 1 :])
        before = words[: len(words) - len(command)]
        before = before[:-1] if before[-1:] == ("--",) else before
    else:
        command, before = (), words
    if len(before) > 1:
        raise ProaError(
            "bad-usage",
            f"there is more than a machine's name: {' '.join(before)[:80]!r}",
            hint="a command stands behind --, for example: proa shell -- uname -a",
            usage=True,
        )
    return (before[0] if before else None), command
