"""`proa config`: look at a machine's settings and change them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from proa.cli.common import agent, json_option, machine_name, table
from proa.model import settings

F = TypeVar("F", bound=Callable[..., Any])


def _machine_option(function: F) -> F:
    option = click.option("--machine", help="Another machine than `default` (or PROA_MACHINE's).")
    return option(function)


@click.group(epilog="Example:  proa config set memory 4GiB")
def config_verb() -> None:
    """Look at a machine's settings and change them; `proa config list` has all, with what they mean."""


@config_verb.command("list", epilog="Example:  proa config list --json")
@_machine_option
@json_option
@click.option("--reveal", is_flag=True, help="Show passwords in URLs.")
def list_command(machine: str | None, as_json: bool, reveal: bool) -> None:
    """All settings, their values and what they are."""
    with agent() as client:
        values = client.config(machine_name(machine), reveal=reveal)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(values)).decode())
        return
    rows = [
        (value.key, settings.show(value.value) or "-", value.effect, value.help.partition(". ")[0])
        for value in values
    ]
    click.echo(table(("KEY", "VALUE", "EFFECT", "WHAT IT IS"), rows))


@config_verb.command("get", epilog="Example:  proa config get registry.mirrors")
@click.argument("key")
@_machine_option
@json_option
def get_command(key: str, machine: str | None, as_json: bool) -> None:
    """One setting's value, passwords included."""
    settings.find(key)
    with agent() as client:
        value = client.setting(machine_name(machine), key)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())
    else:
        click.echo("" if value.value is None else settings.show(value.value))


@config_verb.command(
    "set",
    epilog="Examples:  proa config set memory 4GiB;  proa config set daemon.log-opts.max-size 10m",
)
@click.argument("key")
@click.argument("words", metavar="VALUE…", nargs=-1, required=True)
@_machine_option
def set_command(key: str, words: tuple[str, ...], machine: str | None) -> None:
    """Set one setting; `-` as its value reads it from standard input."""
    setting = settings.find(key)
    if words == ("-",):
        words = (sys.stdin.read(settings.MOST_TEXT + 1).strip(),)
    _change(machine_name(machine), key, setting.parse(words))


@config_verb.command("unset", epilog="Example:  proa config unset proxy.http")
@click.argument("key")
@_machine_option
def unset_command(key: str, machine: str | None) -> None:
    """Take one setting away: its default holds again."""
    settings.find(key)
    _change(machine_name(machine), key, None)


def _change(machine: str, key: str, value: object) -> None:
    with agent() as client:
        effect = client.configure(machine, {key: value}).effect
    other = "" if machine == "default" else f" {machine}"
    click.echo(
        {
            "live": f"{key} is changed, and the engine has taken it over",
            "start": f"{key} is changed; it takes effect with: proa start{other}",
            "restart": f"{key} is changed; it takes effect with: proa restart{other}",
        }.get(effect, f"{key} is so already")
    )
