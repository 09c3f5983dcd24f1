"""manifest.json, format 2: what an image is, and the sizes and hashes that it is checked against."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from recipe import CLI_FILES, COMMAND_LINE, FORMAT, PROTOCOL

IMAGE_FILES = ("kernel", "initrd", "root.erofs")
PAPERS = ("sources.json", "source-offer.txt")


def digest(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def write(
    folder: Path,
    key: str,
    version: str,
    architecture: str,
    suite: str,
    kernel: str,
    packages: dict[str, str],
) -> None:
    """Write the manifest of the image in `folder`. Nothing of the builder or of the day is in it."""
    names = (*IMAGE_FILES, *(f"cli/{name}" for name in CLI_FILES), *PAPERS)
    content = {
        "format": FORMAT,
        "id": key[:12],
        "version": version,
        "architecture": architecture,
        "suite": suite,
        "kernel_version": kernel,
        "protocol": PROTOCOL,
        "commandline": COMMAND_LINE,
        "files": {name: digest(folder / name) for name in names},
        "packages": packages,
    }
    (folder / "manifest.json").write_text(json.dumps(content, indent=1) + "\n")
