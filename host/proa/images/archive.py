"""A signed image as one file, to hand on or to serve: a ustar archive of exactly one shape.

Members, all regular files: manifest.json, manifest.sig, then the manifest's files in its order; then zeros
up to a multiple of 10240 bytes, as tar writes. So the signed manifest, which comes first, gives the whole
archive's length, and nothing else is ever unpacked. Header: POSIX.1-1988 (ustar), 512 bytes.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from proa.images import manifest as manifests
from proa.images import signature as signatures
from proa.images.manifest import Manifest
from proa.model.errors import ProaError

BLOCK = 512
RECORD = 10240


@dataclass(frozen=True)
class Head:
    """What stands before the first large byte, exactly as it is; not yet believed."""

    manifest: bytes
    signature: bytes
    end: int  # where the next header begins


def _padded(size: int, unit: int = BLOCK) -> int:
    return size + -size % unit


# What is taken of an archive before its signature is checked.
MOST_HEAD = 2 * BLOCK + _padded(manifests.MOST) + _padded(signatures.MOST)


def length(head: Head, manifest: Manifest) -> int:
    """The bytes that an archive with this head has, no more and no less."""
    files = sum(BLOCK + _padded(entry.size) for entry in manifest.files.values())
    return _padded(head.end + files + 2 * BLOCK, RECORD)


def read_head(data: bytes) -> Head | None:
    """The head that `data` begins with; None: it is not whole yet. Raises ProaError `archive-wrong`."""
    found, at = [], 0
    for name, most in ((manifests.NAME, manifests.MOST), (signatures.NAME, signatures.MOST)):
        if len(data) < at + BLOCK:
            return None
        size = read_header(data[at : at + BLOCK], name)
        if size > most:
            raise wrong(f"its {name} has {size} bytes, and {most} are the most")
        if len(data) < at + BLOCK + _padded(size):
            return None
        found.append(data[at + BLOCK : at + BLOCK + size])
        at += BLOCK + _padded(size)
    return Head(found[0], found[1], at)


def read_header(block: bytes, name: str) -> int:
    """The size of the regular file `name`, whose header is `block`. Raises ProaError `archive-wrong`."""
    try:
        info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise wrong(f"it has no tar header where {name} should begin") from error
    if info.name != name:
        raise wrong(f"it has {info.name[:60]!r} where {name} should be")
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise wrong(f"its {name} is a link, a device or a folder, and no file")
    if info.size < 0:
        raise wrong(f"its {name} has a size that cannot be")
    return info.size


def padding(size: int) -> int:
    """The zeros behind a member of `size` bytes."""
    return -size % BLOCK


def write(folder: Path, manifest: Manifest, out: BinaryIO) -> None:
    """Write the image in `folder` as an archive: the same image gives the same bytes."""
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in (manifests.NAME, signatures.NAME, *manifest.files):
            info = tarfile.TarInfo(name)
            with (folder / name).open("rb") as file:
                info.size = file.seek(0, io.SEEK_END)
                info.mode = 0o755 if name.startswith("cli/") else 0o644
                file.seek(0)
                archive.addfile(info, file)


def wrong(why: str) -> ProaError:
    return ProaError(
        "archive-wrong",
        "this is no image's archive that can be used",
        why=why,
        hint="get it again, or make one of an image that you have: proa image build --archive FILE",
    )
