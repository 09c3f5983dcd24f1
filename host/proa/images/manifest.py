"""An image's manifest.json, format 1, as `vmimages` writes it. What is not in it is not used."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import msgspec

from proa.model.errors import ProaError
from proa.system.files import read_bytes

FORMAT = 1
NEEDED = ("kernel", "initrd", "root.erofs")
NAME = "manifest.json"


class FileEntry(msgspec.Struct, frozen=True):
    size: int  # bytes
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    format: int
    id: str
    architecture: str  # Debian's name: amd64, arm64
    suite: str
    kernel_version: str
    protocol: int  # of the link
    commandline: str
    files: dict[str, FileEntry]
    packages: dict[str, str] = {}


def read(folder: Path) -> Manifest:
    """The manifest in `folder`, checked. Raises ProaError `manifest-corrupt`, `image-format-unknown`."""
    path = folder / NAME
    try:
        content = msgspec.json.decode(read_bytes(path))
        found = content.get("format") if isinstance(content, dict) else None
        if isinstance(found, int) and found != FORMAT:
            raise ProaError(
                "image-format-unknown",
                f"the guest image cannot be used: {path}",
                why=f"its format is {found}, and this Proa knows {FORMAT}",
                hint="build one that fits: make image",
            )
        manifest = msgspec.convert(content, Manifest)
    except FileNotFoundError as error:
        raise _corrupt(path, "it is missing") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _corrupt(path, str(error)) from error
    for name in NEEDED:
        if name not in manifest.files:
            raise _corrupt(path, f"it does not name {name}")
    for name, entry in manifest.files.items():
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or len(parts.parts) > 3 or entry.size < 0:
            raise _corrupt(path, f"it names a file that cannot be: {name[:60]!r}")
    if not manifest.id.isalnum() or len(manifest.id) > 64:
        raise _corrupt(path, "its id is not one")
    return manifest


def _corrupt(path: Path, why: str) -> ProaError:
    return ProaError(
        "manifest-corrupt",
        f"the guest image cannot be used: {path}",
        why=why,
        hint=f"remove {path.parent}, and build or import the image again: make image",
    )
