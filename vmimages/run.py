"""The builder's door for subprocesses, and its timed progress lines."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

TIMEOUT = 900.0  # seconds; the longest step, mmdebstrap, needs 60 with a near mirror


class BuildError(Exception):
    """A step failed; the message is for people."""


def run(argv: Sequence[str | Path], *, timeout: float = TIMEOUT, env: Mapping[str, str] | None = None) -> str:
    """The command's output. Raises BuildError with its last lines."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(  # noqa: TID251  (the builder stands alone: it imports nothing of Proa's)
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            env=env,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        raise BuildError(f"{words[0]} is not installed: scripts/setup up") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{words[0]} did not end within {timeout:.0f} s") from error
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise BuildError(f"{words[0]} failed with exit status {done.returncode}:\n{tail}")
    return done.stdout


class Steps:
    """Says what is being done, with the seconds since the beginning; to stderr, for people."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"image: {time.monotonic() - self._began:5.1f} s  {text}", file=sys.stderr, flush=True)
