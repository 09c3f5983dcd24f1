"""Verbs that change a machine: start, stop, suspend, restart, create, delete."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from proa.cli.common import agent, machine_name, name_argument, progress
from proa.model.api import StopRequest
from proa.model.errors import ProaError
from proa.model.machine import MachineOptions, MachineStatus
from proa.model.settings import BY_KEY, show
from proa.model.sizes import parse_size

F = TypeVar("F", bound=Callable[..., Any])


@click.command(epilog="Example:  proa start")
@name_argument
@click.pass_obj
def start_verb(asked: int | None, name: str | None) -> None:
    """Make the machine if there is none, start or wake it, and wait until its engine answers.

    A machine that was stopped or suspended comes back from its memory image, in about a second.
    """
    machine = machine_name(name)
    ahead = None if asked is None else socket.socket(fileno=asked)
    with agent() as client, progress() as say:
        status = client.start(machine, say, ahead)
    _say_ready(status)


def _say_ready(status: MachineStatus) -> None:
    took = f" in {status.start_seconds:.1f} s" if status.start_seconds is not None else ""
    click.echo(f"{status.name} is running{took}: Docker engine {status.engine.version}, {status.accelerator}")
    click.echo(f"engine:  unix://{status.engine.socket}")
    other = "" if status.name == "default" else f" --machine {status.name}"
    click.echo(f"try:     proa docker{other} run -d -p 8080:80 proa/welcome")
    click.echo("then:    http://localhost:8080")


@click.command(epilog="Example:  proa stop --force")
@name_argument
@click.option("--cold", is_flag=True, help="Power it off: the next start boots it.")
@click.option(
    "--force",
    is_flag=True,
    help="End it at once: containers are not asked, what they have not written is lost.",
)
def stop_verb(name: str | None, cold: bool, force: bool) -> None:
    """Stop a machine and its containers, gracefully. It stays stopped until it is started.

    The idle engine is kept in a memory image, so that the next start takes about a second. To the
    containers it is a power-off: those with a restart policy come back with the next start.
    """
    machine = machine_name(name)
    with agent() as client, progress() as say:
        client.stop(machine, StopRequest(cold=cold, force=force), say)
    click.echo(f"{machine} is stopped")


@click.command(epilog="Example:  proa suspend")
@name_argument
def suspend_verb(name: str | None) -> None:
    """Put a machine to sleep with its containers: it then costs no memory and no CPU.

    Its socket and published ports stay: the first docker request or connection wakes it in about a
    second, and is served. Processes go on where they were; connections to the outside end.
    """
    machine = machine_name(name)
    with agent() as client, progress() as say:
        client.suspend(machine, say)
    click.echo(f"{machine} is suspended; a docker request or a connection to a published port wakes it")


@click.command(epilog="Example:  proa restart work")
@name_argument
@click.option("--cold", is_flag=True, help="Through a power-off.")
def restart_verb(name: str | None, cold: bool) -> None:
    """Stop a machine and start it again; changes of machine.toml take effect."""
    machine = machine_name(name)
    with agent() as client, progress() as say:
        status = client.restart(machine, StopRequest(cold=cold), say)
    _say_ready(status)


def _setting_option(key: str) -> Callable[[F], F]:
    """An option of `create` with the check and the help of the setting that it gives."""
    setting = BY_KEY[key]
    default = f" Default: {show(setting.default)}." if show(setting.default) else ""
    return click.option(f"--{key}", help=setting.help + default)


@click.command(epilog="Example:  proa create work --cpus 2 --memory 4GiB --disk 100GiB")
@click.argument("name")
@_setting_option("cpus")
@_setting_option("memory")
@_setting_option("disk")
@_setting_option("driver")
@_setting_option("image")
def create_verb(name: str, **given: str | None) -> None:
    """Make a machine without starting it."""
    machine = machine_name(name)
    chosen = {key: BY_KEY[key].parse((word,)) for key, word in given.items() if word is not None}
    for key in ("memory", "disk"):
        if key in chosen:
            chosen[key] = parse_size(chosen[key])
    options = MachineOptions(**chosen)
    with agent() as client, progress() as say:
        client.create(machine, options, say)
    click.echo(f"{machine} is made; start it: proa start {machine}")


@click.command(epilog="Example:  proa delete work --yes")
@name_argument
@click.option("--yes", is_flag=True, help="Do not ask, for scripts.")
def delete_verb(name: str | None, yes: bool) -> None:
    """Remove a machine with its images, containers and volumes."""
    machine = machine_name(name)
    with agent() as client:
        client.known(machine)
        if not yes:
            _confirm(machine)
        with progress() as say:
            client.delete(machine, say)
    click.echo(f"{machine} is deleted")


def _confirm(machine: str) -> None:
    if not sys.stdin.isatty():
        raise ProaError(
            "not-confirmed",
            f"{machine!r} was not deleted",
            why="nobody is there to be asked",
            hint=f"if you are sure: proa delete {machine} --yes",
            usage=True,
        )
    click.confirm(f"Delete {machine!r} with all its images, containers and volumes?", abort=True)
