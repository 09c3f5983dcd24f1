#!/usr/bin/env python3
"""Write what the packages ship besides the program and what is made of it: manual page, completions,
units of systemd, and the copyrights of the packages inside.

Usage: PYTHONPATH=SITE packaging/generated.py SITE FOLDER      SITE: a site-packages folder with proa in it
"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path

import click
import copyrights
import manpage
from click.shell_completion import get_completion_class

from proa import __version__
from proa.cli.main import proa
from proa.system.login_files import systemd_units

COMPLETIONS = {"bash": "proa.bash", "zsh": "_proa", "fish": "proa.fish"}


def completion(shell: str) -> str:
    """The shell's script, by click's own template, with the variable that click listens to for `proa`."""
    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(click.Group(), {}, "proa", "_PROA_COMPLETE")
    return made.source_template % made.source_vars()


def write(site: Path, folder: Path, date: str) -> None:
    """Write all of it into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "proa.1").write_text(manpage.render(proa, __version__, date))
    for shell, name in COMPLETIONS.items():
        (folder / name).write_text(completion(shell))
    for name, content in systemd_units("proa", ["/usr/bin/proa", "agent"], "%t/proa", {}).items():
        (folder / name).write_text(content)
    (folder / "copyright").write_text(copyrights.render(copyrights.read(site)))


def main(argv: list[str]) -> int:
    if len(argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    # Debian's builder sets it, from the changelog (reproducible-builds.org).
    now = datetime.datetime.now(datetime.UTC).timestamp()
    epoch = float(os.environ.get("SOURCE_DATE_EPOCH", now))
    day = datetime.datetime.fromtimestamp(epoch, datetime.UTC).date()
    write(Path(argv[1]), Path(argv[2]), day.isoformat())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
