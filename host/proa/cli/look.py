"""Verbs that look: status, list, ports, env, version."""

from __future__ import annotations

import os
import sys

import click
import msgspec

from proa import __version__
from proa.cli.common import agent, json_option, machine_name, name_argument, table
from proa.model.errors import ProaError
from proa.model.machine import MachineState, MachineStatus
from proa.model.problem import Problem
from proa.model.showing import plain, status_lines
from proa.model.sizes import show_size
from proa.system.paths import Places


def _print_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


@click.command(epilog="Example:  proa status --json")
@name_argument
@json_option
def status_verb(name: str | None, as_json: bool) -> None:
    """What a machine is doing. `running` means that its engine answered just now."""
    wanted = machine_name(name)
    try:
        with agent() as client:
            status = client.status(wanted)
    except ProaError as error:
        if error.usage:
            raise
        status = _unknown(wanted, error)
    if as_json:
        _print_json(status)
        return
    click.echo("\n".join(status_lines(status)))


def _unknown(name: str, error: ProaError) -> MachineStatus:
    """Of a machine whose agent cannot be asked: looking tells what is wrong, and does not fail with it."""
    problem = Problem.of(error)
    problem = msgspec.structs.replace(problem, layer=problem.layer or "agent")
    return MachineStatus(name=name, state=MachineState.BROKEN, problem=problem)


@click.command(epilog="Example:  proa list")
@json_option
def list_verb(as_json: bool) -> None:
    """All machines and their states."""
    with agent() as client:
        machines = client.machines()
    if as_json:
        _print_json(machines)
    elif not machines:
        click.echo("no machines yet; make and start one: proa start")
    else:
        rows = [
            (
                status.name,
                str(status.state),
                status.engine.version or "-",
                str(status.cpus),
                show_size(status.memory) if status.memory else "-",
                status.problem.message if status.problem else "",
            )
            for status in machines
        ]
        click.echo(table(("NAME", "STATE", "ENGINE", "CPUS", "MEMORY", "PROBLEM"), rows))


@click.command(epilog="Example:  proa ports --json")
@json_option
def ports_verb(as_json: bool) -> None:
    """Published ports of the machine and where they are on this computer (PROA_MACHINE picks another)."""
    with agent() as client:
        ports = client.ports(machine_name(None))
    if as_json:
        _print_json(ports)
        return
    if not ports:
        click.echo("no published ports; publish one: proa docker run -p 8080:80 …")
        return
    rows = []
    for port in ports:
        host = f"[{port.host_ip}]" if ":" in port.host_ip else port.host_ip
        state = "bound"
        if port.problem is not None:
            state = "; ".join(
                part for part in (port.problem.message, port.problem.why, port.problem.hint) if part
            )
        rows.append(
            (f"{host}:{port.host_port}", port.protocol, port.container, str(port.container_port), state)
        )
    click.echo(table(("HOST", "PROTOCOL", "CONTAINER", "PORT", "STATE"), rows))


@click.command(epilog='Example:  eval "$(proa env)"')
@name_argument
@click.option("--unset", is_flag=True, help="Print the line that takes it back.")
def env_verb(name: str | None, unset: bool) -> None:
    """Print the line that lets docker, compose and others in this shell find the engine."""
    import shlex

    socket = f"unix://{Places.current().machine(machine_name(name)).engine_socket}"
    fish = os.environ.get("SHELL", "").endswith("/fish")
    if unset:
        click.echo("set -e DOCKER_HOST" if fish else "unset DOCKER_HOST")
    elif fish:
        click.echo(f"set -gx DOCKER_HOST {shlex.quote(socket)}")
    else:
        click.echo(f"export DOCKER_HOST={shlex.quote(socket)}")


@click.command(epilog="Example:  proa version")
def version_verb() -> None:
    """Versions of Proa, Python, the agent, and of the machine's engine where it runs."""
    click.echo(f"proa    {__version__}")
    click.echo(f"python  {sys.version.split()[0]}")
    try:
        with agent() as client:
            click.echo(f"agent   {client.info().version}")
            status = client.status(machine_name(None))
    except ProaError as error:
        click.echo(f"agent   {error}")
        return
    click.echo(f"engine  {plain(status.engine.version) or status.state}")
