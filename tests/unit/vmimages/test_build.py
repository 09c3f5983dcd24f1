"""The builder as a program: the same bytes wherever it runs, and packages for other architectures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.caches import REPOSITORY, guest_image

BUILDER = REPOSITORY / "vmimages/build.py"
pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


def test_the_same_packages_and_recipe_give_the_same_bytes(tmp_path: Path) -> None:
    """Built again from its packages on, in another folder, with another umask, time zone and language."""
    first = guest_image()
    strange = {"TZ": "Asia/Kolkata", "LANG": "tr_TR.UTF-8", "LC_ALL": "C", "PYTHONHASHSEED": "7", "HOME": "/"}
    done = subprocess.run(
        [sys.executable, str(BUILDER), "--output", str(tmp_path), "--print-path"],
        env={**os.environ, **strange},
        umask=0o077,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "installing" in done.stderr, "nothing is taken over from the first"
    second = Path(done.stdout.splitlines()[-1])
    assert second != first
    names = sorted(str(path.relative_to(first)) for path in first.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(second)) for path in second.rglob("*") if path.is_file())
    assert [name for name in names if (first / name).read_bytes() != (second / name).read_bytes()] == []


def test_an_image_for_arm64_resolves_and_lists_its_packages() -> None:
    argv = [sys.executable, str(BUILDER), "--architecture", "arm64", "--resolve-only"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    away = ("Could not resolve", "Could not connect", "Failed to fetch", "Connection timed out")
    if done.returncode and any(words in done.stderr for words in away):
        pytest.skip(f"the package archive cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found = dict(line.split(" ") for line in done.stdout.splitlines())
    assert {"docker.io", "containerd", "linux-image-arm64", "busybox-static"} <= set(found)
    assert not any("amd64" in name for name in found)
