"""`proa doctor`: named checks of everything between this computer and a container."""

from __future__ import annotations

import os

import click
import msgspec

from proa.cli.common import json_option, machine_name, name_argument, reach_agent
from proa.cli.environment import Surroundings, examine
from proa.model.doctor import CheckResult, CheckState
from proa.model.showing import plain
from proa.system.paths import Places


def surroundings(name: str) -> Surroundings:
    """What the checks look at, with the agent where there is one."""
    places = Places.current()
    client, problem = reach_agent(places)
    return Surroundings(places, name, os.environ, client, problem)


@click.command(epilog="Example:  proa doctor")
@name_argument
@json_option
def doctor_verb(name: str | None, as_json: bool) -> int:
    """Check this computer, the machine, its guest and your Docker tools, and say what to do.

    It starts no machine. To see whether images can be pulled, the guest looks up the name of your
    registry, mirror or proxy and opens a TCP connection to it, which is closed at once: nothing is sent
    to anyone. The exit status is 0 where no check failed, else 1.
    """
    results = examine(surroundings(machine_name(name)))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(results)).decode())
    else:
        click.echo("\n".join(lines(results)))
    return 1 if any(result.state is CheckState.FAIL for result in results) else 0


def lines(results: list[CheckResult]) -> list[str]:
    """What a person reads: a line a check, its hint below, and how it is at large."""
    width = max(len(result.name) for result in results)
    told = []
    for result in results:
        told.append(f"{result.state:<5} {result.name:<{width}}  {plain(result.message)}")
        if result.hint:
            told.append(f"{'':<{width + 8}}{plain(result.hint)}")
    failed = [result.name for result in results if result.state is CheckState.FAIL]
    warned = [result.name for result in results if result.state is CheckState.WARN]
    if failed:
        told.append(f"\nto mend: {', '.join(failed)}")
    elif warned:
        told.append(f"\nnothing failed; worth a look: {', '.join(warned)}")
    else:
        told.append("\nall is well")
    return told
