"""`proa shares` and `proa share`: which folders of this computer containers may mount."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from proa.cli.common import agent, json_option, machine_name, table
from proa.model import shares
from proa.model.errors import ProaError
from proa.model.host_path import this_system

F = TypeVar("F", bound=Callable[..., Any])
KEY = "shares.folders"


def _machine_option(function: F) -> F:
    option = click.option("--machine", help="Another machine than `default` (or PROA_MACHINE's).")
    return option(function)


@click.command(epilog="Example:  proa shares --json")
@_machine_option
@json_option
def shares_verb(machine: str | None, as_json: bool) -> None:
    """Folders that containers may mount, and what the machine has of them."""
    _show(machine, as_json)


def _show(machine: str | None, as_json: bool) -> None:
    with agent() as client:
        status = client.shares(machine_name(machine))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(status)).decode())
        return
    rows = [
        (
            folder.path,
            "read and write" if folder.writable else "read only",
            folder.problem or "ok",
            str(folder.known) if status.mounted else "-",
        )
        for folder in status.folders
    ]
    click.echo(table(("FOLDER", "MODE", "STATE", "FILES KNOWN"), rows))
    if status.mounted:
        click.echo(
            f"\nthe machine has {status.open} of their files open and asked {status.asked} times,"
            f" {status.rate:.0f} a second now; {status.watches} are watched, {status.events} changes told"
        )
        if status.slowest is not None:
            slowest = status.slowest
            click.echo(f"slowest of the last minute: {slowest.operation}, {1000 * slowest.seconds:.1f} ms")
        if status.confined:
            click.echo("their server has no right to any other file of this computer")
        if status.problem:
            click.echo(f"problem: {status.problem}")
    else:
        click.echo("\nthe machine does not run, so it has none of them now")


@click.group(epilog="Example:  proa share add /data --read-only")
def share_verb() -> None:
    """Let containers mount a folder of this computer, or no more; it counts at once."""


@share_verb.command("add", epilog="Example:  proa share add ~/work")
@click.argument("folder")
@click.option("--read-only", is_flag=True, help="Containers may read it and not change it.")
@_machine_option
def add_command(folder: str, read_only: bool, machine: str | None) -> None:
    """Let containers mount FOLDER with all below it, also one where keys and logins are kept."""
    path = _whole(folder)
    if not os.path.isdir(path):  # noqa: PTH112
        raise ProaError("no-such-folder", f"there is no folder {path}", hint="make it first", usage=True)
    share = shares.Share(path, writable=not read_only)
    _change(machine, lambda entries: [*_without(entries, path), str(share)])
    click.echo(f"containers may mount {path}{' for reading' if read_only else ''}")


@share_verb.command("remove", epilog="Example:  proa share remove /data")
@click.argument("folder")
@_machine_option
def remove_command(folder: str, machine: str | None) -> None:
    """Take FOLDER away again: containers that have it see errors from now on."""
    path = _whole(folder)

    def without(entries: list[str]) -> list[str]:
        kept = _without(_spelled_out(entries, path), path)
        if len(kept) == len(_spelled_out(entries, path)):
            raise ProaError("not-shared", f"{path} is not shared", hint="see all: proa shares")
        return kept

    _change(machine, without)
    click.echo(f"containers have {path} no more")


@share_verb.command("list", epilog="Example:  proa share list --json")
@_machine_option
@json_option
def list_command(machine: str | None, as_json: bool) -> None:
    """The same as `proa shares`."""
    _show(machine, as_json)


def _whole(folder: str) -> str:
    return os.path.abspath(os.path.expanduser(folder))  # noqa: PTH100, PTH111  (as it was typed, links and all)


def _path_of(entry: str) -> str:
    return entry if entry == shares.USUAL else _whole(shares.Share.parse(entry).path)


def _without(entries: list[str], path: str) -> list[str]:
    return [entry for entry in entries if _path_of(entry) != path]


def _spelled_out(entries: list[str], path: str) -> list[str]:
    """With the usual folders one by one, where it is one of them that goes."""
    usual = [str(share) for share in shares.usual(this_system())]
    if path not in map(_path_of, usual):
        return entries
    return [word for entry in entries for word in (usual if entry == shares.USUAL else [entry])]


def _change(machine: str | None, change: Callable[[list[str]], list[str]]) -> None:
    name = machine_name(machine)
    with agent() as client:
        entries = client.setting(name, KEY).value
        client.configure(name, {KEY: change(entries)})
