"""What tests and bench keep between runs: folders of the user's cache, and the built guest image."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.support.commands import run

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGE_TIMEOUT = 600.0  # a first build takes 1 to 4 minutes, a cached one a second


def cache_folder(name: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "proa" / name


def guest_image() -> Path:
    """The folder that `make image` builds."""
    argv = [sys.executable, str(REPOSITORY / "vmimages/build.py"), "--print-path"]
    return Path(run(argv, timeout=IMAGE_TIMEOUT).check().out.splitlines()[-1])
