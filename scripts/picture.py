#!/usr/bin/env python3
"""Renew the README's picture: a first run in a real terminal (tmux), drawn by rich. Needs tmux.

Example: PYTHONPATH=. .venv/bin/python scripts/picture.py docs/first-run.svg
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.support.commands import run
from tests.support.homes import REPOSITORY, Home, wait_until

COLUMNS, ROWS = 100, 60
STEPS = (
    "make up",
    "proa docker run -d -p 8080:80 --name hello proa/welcome",
    "proa docker ps --format 'table {{.Names}}\\t{{.Image}}\\t{{.Status}}\\t{{.Ports}}'",
    "curl -s http://localhost:8080 | grep '<h1>'",
    "proa status",
)
STEP_TIMEOUT = 900.0
PROMPT = "$ "


class Terminal:
    """A tmux server of its own."""

    def __init__(self, socket: Path, environ: dict[str, str]) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        shell = ["env", "-i", *(f"{key}={value}" for key, value in environ.items()), "sh", "-i"]
        self._ask("new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), *shell)

    def _ask(self, *words: str) -> str:
        return run([*self._tmux, *words], timeout=20).check().raw.decode()

    def lines(self) -> list[str]:
        return self._ask("capture-pane", "-p", "-J").rstrip().splitlines()

    def run(self, command: str) -> None:
        """Type a command as a person does, and wait until the prompt is back."""
        wait_until(lambda: self.lines()[-1:] == [PROMPT.strip()], 20, "there is a prompt")
        before = len(self.lines())
        self._ask("send-keys", "-l", command)
        self._ask("send-keys", "Enter")
        wait_until(
            lambda: len(now := self.lines()) > before and now[-1] == PROMPT.strip(), STEP_TIMEOUT, command
        )

    def picture(self) -> str:
        return self._ask("capture-pane", "-p", "-e", "-J")

    def close(self) -> None:
        self._ask("kill-server")


def main() -> int:
    target = Path(sys.argv[1])
    home = Home()
    try:
        home.folder.mkdir(mode=0o700)
        path = f"{REPOSITORY}/.venv/bin:{os.environ['PATH']}"
        environ = {
            **home.environ,
            "PATH": path,
            "PS1": PROMPT,
            "TERM": "xterm-256color",
            "HOME": str(Path.home()),
        }
        os.chdir(REPOSITORY)
        terminal = Terminal(home.folder / "tmux", environ)
        try:
            for step in STEPS:
                terminal.run(step)
            shown = terminal.picture().rstrip().removesuffix(PROMPT.strip()).rstrip()
        finally:
            terminal.close()
    finally:
        home.close()
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(shown))
    target.write_text(console.export_svg(title="proa"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
