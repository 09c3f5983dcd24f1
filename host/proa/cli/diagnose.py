"""`proa diagnose`: one file with what a helper needs to see."""

from __future__ import annotations

import time
from pathlib import Path

import click

from proa.cli.common import machine_name, name_argument, progress
from proa.cli.doctor import surroundings
from proa.model.api import Progress
from proa.model.errors import ProaError
from proa.model.showing import plain
from proa.system.files import write_atomic


@click.command(epilog="Example:  proa diagnose -o proa.tar.gz")
@name_argument
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The file to write (tar.gz)."
)
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def diagnose_verb(name: str | None, output: Path, force: bool) -> None:
    """Collect versions, the doctor's findings, states, logs and settings into one file.

    It stays on this computer, readable by you alone, until you send it to somebody. Keys, tokens,
    passwords, and the environment and labels of containers are masked. It works also where the agent
    or the machine is broken: README.txt in it says what could not be had.
    """
    # Imported here: with tar and gzip, what it takes is not for the help.
    from proa.cli.bundle import collect

    machine = machine_name(name)
    _check_place(output, force)
    with progress() as say:
        bundle = collect(surroundings(machine), lambda words: say(Progress(step="diagnose", message=words)))
        content = bundle.archive(time.time())
        _check_place(output, force)
        write_atomic(output, content, 0o600)
    size = f"{len(content) / 1024:.0f} KiB"
    click.echo(f"{plain(str(output))} is written ({size}, {len(bundle.entries) + 1} files, secrets masked)")
    if bundle.missing:
        click.echo(f"not collected: {len(bundle.missing)} things, README.txt in it says which")
    click.echo(f"look inside: tar -tzf {plain(str(output))}")


def _check_place(output: Path, force: bool) -> None:
    if output.is_dir():
        raise ProaError(
            "file-exists",
            f"{output} is a folder",
            hint=f"name a file: -o {output / 'proa.tar.gz'}",
            usage=True,
        )
    if not force and (output.exists() or output.is_symlink()):
        raise ProaError(
            "file-exists",
            f"{output} is there already",
            hint="choose another name, or replace it with --force",
            usage=True,
        )
    if not output.absolute().parent.is_dir():
        raise ProaError("no-such-folder", f"there is no folder {output.absolute().parent}", usage=True)
