"""`proa reset`: remove what Proa keeps on this computer, in order and only what is its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proa.cli.common import machine_names, progress, reach_agent
from proa.cli.reset_plan import Item, Plan, plan
from proa.model.api import Progress, StopRequest
from proa.model.errors import ProaError
from proa.model.showing import plain
from proa.model.sizes import GIB, MIB
from proa.system.files import explain, remove_tree
from proa.system.locks import FileLock, is_held
from proa.system.paths import OURS, Places

if TYPE_CHECKING:
    from proa.agent.client import AgentClient

Say = Callable[[Progress], None]


@click.command(epilog="Example:  proa reset --keep-data")
@click.option(
    "--keep-data",
    is_flag=True,
    help="Keep machines with their disks and settings, and guest images; remove only what can be made"
    " anew: sockets, locks, caches, logs.",
)
@click.option("--yes", is_flag=True, help="Do not ask, for scripts.")
def reset_verb(keep_data: bool, yes: bool) -> None:
    """Remove what Proa keeps on this computer, and end its agent. It says first what will go, and asks.

    Machines are stopped in order with --keep-data, else they are ended and removed with their images,
    containers, volumes and Docker contexts. What is not provably Proa's is left alone, and named.
    """
    places = Places.current()
    planned = _plan(places, keep_data)
    names = machine_names(places.machines)
    _tell(planned, names, keep_data)
    if not planned.items and not is_held(places.agent_lock):
        return
    if not yes:
        _confirm(keep_data)
    with progress() as say:
        _end_machines(places, names, keep_data, say)
        from proa.agent import spawn  # here, as completing a word imports this module

        say(Progress(step="agent", message="ending the agent"))
        spawn.replace(places)
        # What is there now counts: deleting the machines took theirs with them.
        freed = _remove(places, keep_data, say)
    click.echo(f"done: {_size(max(freed, planned.size))} freed")


def _plan(places: Places, keep_data: bool) -> Plan:
    return plan(places, keep_data=keep_data, user=os.geteuid() if hasattr(os, "geteuid") else None)


def _tell(planned: Plan, names: list[str], keep_data: bool) -> None:
    if not planned.items:
        click.echo("there is nothing of Proa's to remove here")
    else:
        click.echo("this will go:")
        for item in planned.items:
            click.echo(_line(item))
        click.echo(f"  {_size(planned.size):>10}  in all")
    for kept in planned.kept:
        click.echo(f"left alone: {plain(str(kept.path))} ({kept.why})")
    if keep_data and names:
        click.echo(f"machines that are kept, and stopped if they run: {', '.join(names)}")


def _line(item: Item) -> str:
    return f"  {_size(item.size):>10}  {item.path} ({plain(item.what)})"


def _size(size: int) -> str:
    if size >= GIB:
        return f"{size / GIB:.1f} GiB"
    return f"{size / MIB:.1f} MiB" if size >= MIB else f"{size / 1024:.0f} KiB"


def _confirm(keep_data: bool) -> None:
    again = "proa reset --keep-data --yes" if keep_data else "proa reset --yes"
    if not sys.stdin.isatty():
        raise ProaError(
            "not-confirmed",
            "nothing was removed",
            why="nobody is there to be asked",
            hint=f"if you are sure: {again}",
            usage=True,
        )
    question = "Remove all that?" if keep_data else "Remove all that? Images, containers and volumes are lost"
    if not click.confirm(question):
        raise ProaError("not-confirmed", "nothing was removed", why="you said no")


def _end_machines(places: Places, names: list[str], keep_data: bool, say: Say) -> None:
    """Through the agent, which knows what belongs to a machine (its Docker context, for one)."""
    if not names or (keep_data and not any(is_held(places.machine(name).lock) for name in names)):
        return
    client, problem = reach_agent(places)
    if client is None:
        _check_nobody_runs(places, names, problem)
        return
    for name in names:
        _end_machine(client, name, keep_data, say)
    _check_nobody_runs(places, names, None)


def _end_machine(client: AgentClient, name: str, keep_data: bool, say: Say) -> None:
    try:
        if keep_data:
            client.stop(name, StopRequest(), say)
        else:
            client.delete(name, say)
    except ProaError as error:
        # A machine that is broken so that it cannot be deleted is removed as files, if nothing runs.
        say(Progress(step="machine", message=f"{name}: {error.message}"))


def _check_nobody_runs(places: Places, names: list[str], problem: ProaError | None) -> None:
    for name in names:
        if is_held(places.machine(name).lock):
            raise ProaError(
                "machine-in-use",
                f"nothing was removed: the machine {name!r} still runs",
                why=problem.message if problem else "its hypervisor did not end",
                hint=f"end it: proa stop {name} --force; see also: proa doctor {name}",
            )


def _remove(places: Places, keep_data: bool, say: Say) -> int:
    """Remove what the plan of this moment names; the bytes that went."""
    # Held while we are at it, so that no command starts an agent in folders that are going.
    lock = FileLock.try_acquire(places.agent_lock) if places.run.is_dir() else None
    try:
        planned = _plan(places, keep_data)
        for item in planned.items:
            say(Progress(step="remove", message=f"removing {item.path}"))
            _remove_item(item)
    finally:
        if lock is not None:
            lock.release()
    for folder in planned.folders:
        _remove_if_empty(folder)
    return planned.size


def _remove_item(item: Item) -> None:
    if item.path.is_dir() and not item.path.is_symlink():
        remove_tree(item.path)
        return
    try:
        item.path.unlink(missing_ok=True)
    except OSError as error:
        raise explain(error, f"remove {item.path}") from error


def _remove_if_empty(folder: Path) -> None:
    """A folder that holds nothing but our mark goes too; one with anything else stays."""
    try:
        if [entry.name for entry in folder.iterdir()] == [OURS]:
            (folder / OURS).unlink()
            folder.rmdir()
    except OSError:
        return  # it is not there, or something came into it: it stays
