"""Building an image with `vmimages` of the checkout that this Proa runs from; no other place has a recipe."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import proa
from proa.model.errors import ProaError
from proa.system.processes import run_lines, which

TIMEOUT = 3600.0  # seconds; 90 with a near archive, and a slow one has its time
_STEP = re.compile(r"image: +[\d.]+ s  (.*)")


def find_builder(package: Path = Path(proa.__file__)) -> Path:
    """vmimages/build.py of the checkout. Raises ProaError `no-checkout` where there is none."""
    builder = package.resolve().parents[2] / "vmimages" / "build.py"
    if not builder.is_file():
        raise ProaError(
            "no-checkout",
            "a guest image cannot be built here",
            why="images are built from a checkout of Proa's source, and this installation is not one",
            hint="get one instead: proa image fetch URL, or proa image import FILE",
        )
    return builder


async def build(builder: Path, say: Callable[[str], None]) -> Path:
    """Build, or find built; the image's folder. Raises ProaError `image-build-failed`."""
    python = which("python3")
    if python is None:
        raise ProaError(
            "command-missing", "cannot build a guest image", why="there is no python3 on the PATH"
        )
    told: list[str] = []

    def hear(line: str) -> None:
        told.append(line)
        if found := _STEP.fullmatch(line):
            say(found[1])

    # The builder stands alone: it runs with the system's Python and none of our dependencies.
    done = await run_lines([str(python), str(builder), "--print-path"], hear, timeout=TIMEOUT)
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    if done.status or not lines:
        why = [line for line in told if line.strip() and not _STEP.fullmatch(line)]
        raise ProaError(
            "image-build-failed",
            "the guest image cannot be built",
            why=why[-1] if why else f"{builder.name} ended with exit status {done.status}",
            hint=f"to see for yourself: {done.line}",
            log=tuple(told[-8:]),
        )
    return Path(lines[-1])
