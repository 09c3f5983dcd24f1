"""Packages of npm's that tests install, each in one version."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.commands import run

CHOKIDAR, VITE, EXPRESS, DOCKERODE = "chokidar@4.0.3", "vite@5.4.9", "express@4.21.2", "dockerode@4.0.2"
TIMEOUT = 120.0


def npm(at: Path, *words: str) -> None:
    """Run this computer's npm in that folder."""
    argv = ("npm", *words, "--no-audit", "--no-fund", "--no-update-notifier", "--prefer-offline")
    run(argv, timeout=TIMEOUT, cwd=at, env={**os.environ, "HOME": os.environ.get("HOME", "/root")}).check()
