"""The welcome image: a page and busybox's httpd, as `docker save` would write them.

Format: the Docker image specification v1.2 (moby: image/spec/v1.2.md).
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

NAME = "proa/welcome"
_EPOCH = "1970-01-01T00:00:00Z"


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, (data, mode) in files.items():
            info = tarfile.TarInfo(name)
            info.mode, info.size = mode, len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def build(busybox: bytes, page: Path, architecture: str) -> bytes:
    """The archive's bytes: the same input gives the same bytes."""
    layer = _tar({"bin/httpd": (busybox, 0o755), "www/index.html": (page.read_bytes(), 0o644)})
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "created": _EPOCH,
            "config": {
                "Cmd": ["/bin/httpd", "-f", "-p", "80", "-h", "/www"],
                "ExposedPorts": {"80/tcp": {}},
                "StopSignal": "SIGKILL",
                "Labels": {"org.opencontainers.image.title": "Proa's welcome page"},
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created": _EPOCH, "created_by": "proa"}],
        },
        sort_keys=True,
    ).encode()
    name = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{name}.json", "RepoTags": [f"{NAME}:latest"], "Layers": [f"{digest}/layer.tar"]}]
    return _tar(
        {
            f"{name}.json": (config, 0o644),
            f"{digest}/layer.tar": (layer, 0o644),
            "manifest.json": (json.dumps(manifest).encode(), 0o644),
        }
    )
