"""Small guest images as `vmimages` lays them out: nothing boots them, everything else treats them as real."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

OWN = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
FILES = ("kernel", "initrd", "root.erofs", "cli/docker", "cli/cli-plugins/docker-compose")
PAPERS = ("sources.json", "source-offer.txt")
EROFS = bytes(1024) + bytes.fromhex("e2e1f5e0")  # kernel: fs/erofs/erofs_fs.h


def make_image(
    folder: Path, identity: str = "abc123", version: str = "1.5", size: int = 5000, **changes: Any
) -> Path:
    """An unsigned image in `folder`, of random bytes; `changes` go into its manifest."""
    (folder / "cli/cli-plugins").mkdir(parents=True)
    files = {}
    for name in (*FILES, *PAPERS):
        data = os.urandom(size)
        if name == "root.erofs":
            data = EROFS + data[len(EROFS) :]
        (folder / name).write_bytes(data)
        files[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = {
        "format": 2, "id": identity, "version": version, "architecture": OWN, "suite": "trixie",
        "kernel_version": "6", "protocol": 1, "commandline": "", "files": files, "packages": {"bash": "5"},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return folder
