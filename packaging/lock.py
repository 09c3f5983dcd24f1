#!/usr/bin/env python3
"""The part of requirements.lock that Proa needs to run: what is left without the tools of development.

Example: packaging/lock.py > build/runtime.lock; pip install --require-hashes -r build/runtime.lock
Wants the locked packages installed (`.venv`): their own metadata say what they need.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r"\bextra\s*==")


def normal(requirement: str) -> str:
    """The name in a requirement or a lock's line, as indexes compare names (PEP 503)."""
    found = _NAME.match(requirement.strip())
    if found is None:
        raise ValueError(f"there is no name in {requirement!r}")
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def entries(lock: str) -> dict[str, str]:
    """Name -> its lines with version, marker and hashes. Raises ValueError for what is not such a line."""
    found: dict[str, str] = {}
    for block in re.split(r"\n(?=\S)", lock.strip()):
        if "==" not in block or "--hash=sha256:" not in block:
            raise ValueError(f"not a pinned and hashed requirement: {block.splitlines()[0]!r}")
        found[normal(block)] = block.rstrip()
    return found


def closure(first: Iterable[str], requires: Callable[[str], Iterable[str]]) -> set[str]:
    """All that is needed, extras left out; what another system needs (`sys_platform`) stays in."""
    wanted: set[str] = set()
    waiting = [normal(requirement) for requirement in first]
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += [normal(text) for text in requires(name) if not _EXTRA.search(text)]
    return wanted


def _requires(name: str) -> Iterable[str]:
    try:
        return metadata.requires(name) or ()
    except metadata.PackageNotFoundError:
        return ()  # of another system


def runtime_lock() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = entries((ROOT / "requirements.lock").read_text())
    needed = closure(project["dependencies"], _requires)
    # A requirement for another Python or system may have no entry: the lock was made without it.
    missing = {normal(text) for text in project["dependencies"]} - locked.keys()
    if missing:
        raise ValueError(f"not in requirements.lock: {', '.join(sorted(missing))}")
    return "\n".join(locked[name] for name in sorted(needed & locked.keys())) + "\n"


if __name__ == "__main__":
    sys.stdout.write(runtime_lock())
