"""An image's manifest.json, format 2, as `vmimages` writes it. What is not in it is not used.

A file's name is one to three parts of letters, digits, `.`, `_`, `+` and `-`; sizes are bytes, hashes
SHA-256 in hex. `version` is what `proa.images.versions` compares.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from proa.images.versions import Version
from proa.model.errors import ProaError
from proa.system.files import read_bytes

FORMAT = 2
NEEDED = ("kernel", "initrd", "root.erofs")
NAME = "manifest.json"
MOST = 1 << 20  # bytes of a manifest; 200 packages and a dozen files need 10 KiB
MOST_FILES = 64
MOST_SIZE = 2 << 30  # bytes of all files together; the builder's own bound is far below
SOURCES = "sources.json"
SOURCE_OFFER = "source-offer.txt"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ID = re.compile(r"[0-9a-z]{1,64}", re.ASCII)
_OURS = ("checked.json", "manifest.json", "manifest.sig")  # what the store itself keeps in the folder


class FileEntry(msgspec.Struct, frozen=True):
    size: int  # bytes
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    format: int
    id: str
    version: str
    architecture: str  # Debian's name: amd64, arm64
    suite: str
    kernel_version: str
    protocol: int  # of the link
    commandline: str
    files: dict[str, FileEntry]
    packages: dict[str, str] = {}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())


def read(folder: Path) -> Manifest:
    """The manifest in `folder`, checked. Raises ProaError `manifest-corrupt`, `image-format-unknown`."""
    return parse(load(folder), folder / NAME)


def load(folder: Path) -> bytes:
    """The exact bytes of the manifest in `folder`. Raises ProaError `manifest-corrupt`."""
    path = folder / NAME
    try:
        return read_bytes(path, MOST)
    except FileNotFoundError as error:
        raise _corrupt(path, "it is missing") from error


def parse(data: bytes, path: Path | str) -> Manifest:
    """The manifest in `data`, checked; `path` is where it comes from, for people."""
    try:
        content = msgspec.json.decode(data)
        found = content.get("format") if isinstance(content, dict) else None
        if isinstance(found, int) and found != FORMAT:
            raise ProaError(
                "image-format-unknown",
                f"the guest image cannot be used: {path}",
                why=f"its format is {found}, and this Proa knows {FORMAT}",
                hint="get one that fits: proa image fetch URL, or make image in a checkout",
            )
        manifest = msgspec.convert(content, Manifest)
        Version.parse(manifest.version)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise _corrupt(path, str(error)) from error
    if wrong := _wrong(manifest):
        raise _corrupt(path, wrong)
    return manifest


def _wrong(manifest: Manifest) -> str:
    """What cannot be in a manifest, or nothing."""
    if not _ID.fullmatch(manifest.id):
        return "its id is not one"
    if not manifest.commandline.isascii() or not (manifest.commandline.isprintable()):
        return "its kernel command line is not plain text"
    if missing := [name for name in NEEDED if name not in manifest.files]:
        return f"it does not name {missing[0]}"
    if len(manifest.files) > MOST_FILES or manifest.size > MOST_SIZE:
        return f"its {len(manifest.files)} files have {manifest.size} bytes, which is too much"
    if strange := [name for name, entry in manifest.files.items() if not _may_be(name, entry)]:
        return f"it names a file that cannot be: {strange[0][:60]!r}"
    return ""


def _may_be(name: str, entry: FileEntry) -> bool:
    parts = name.split("/")
    named = len(parts) <= 3 and name not in _OURS and all(_PART.fullmatch(part) for part in parts)
    return named and entry.size >= 0 and _SHA256.fullmatch(entry.sha256) is not None


def _corrupt(path: Path | str, why: str) -> ProaError:
    return ProaError(
        "manifest-corrupt",
        f"the guest image cannot be used: {path}",
        why=why,
        hint="remove it, and get it again: proa image fetch URL, or make image in a checkout",
    )
