"""Versions of images, and the highest of each channel that this installation has seen.

A version is one to four numbers with dots between, compared number by number: the recipe's revision, the
date of the newest package (YYYYMMDDhhmmss), and the sum of all packages' dates (vmimages/version.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proa.model.errors import ProaError
from proa.system.files import read_bytes, write_atomic

FORMAT = 1
_VERSION = re.compile(r"\d{1,18}(\.\d{1,18}){0,3}", re.ASCII)


@dataclass(frozen=True, order=True)
class Version:
    numbers: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Version:
        """Raises ValueError."""
        if not _VERSION.fullmatch(text):
            raise ValueError(f"{text[:60]!r} is not a version of an image")
        return cls(tuple(int(number) for number in text.split(".")))


class _Seen(msgspec.Struct, frozen=True):
    """versions.json, format 1: the highest version by `CHANNEL/ARCHITECTURE`."""

    format: int
    highest: dict[str, str]


class SeenVersions:
    """The memory that lets no older image in."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self, channel: str, architecture: str, version: str) -> None:
        """Raises ProaError `image-older` where a higher version was seen, `versions-corrupt`."""
        highest = self._load().get(f"{channel}/{architecture}")
        if highest is not None and Version.parse(version) < Version.parse(highest):
            raise ProaError(
                "image-older",
                f"the guest image of version {version} is refused",
                why=f"this installation has seen version {highest}: an old image may lack security updates",
                hint="if you want the old one all the same: --allow-older",
            )

    def note(self, channel: str, architecture: str, version: str) -> None:
        """Remember `version` if it is the highest."""
        highest, key = self._load(), f"{channel}/{architecture}"
        known = highest.get(key)
        if known is None or Version.parse(known) < Version.parse(version):
            content = _Seen(FORMAT, {**highest, key: version})
            write_atomic(self._path, msgspec.json.format(msgspec.json.encode(content)) + b"\n")

    def _load(self) -> dict[str, str]:
        """Forgetting silently would let an old image in: what cannot be read is refused by name."""
        try:
            seen = msgspec.json.decode(read_bytes(self._path), type=_Seen)
            if seen.format != FORMAT:
                raise ValueError(f"its format is {seen.format}, and this Proa knows {FORMAT}")
            for version in seen.highest.values():
                Version.parse(version)
        except FileNotFoundError:
            return {}
        except (msgspec.MsgspecError, ValueError) as error:
            raise ProaError(
                "versions-corrupt",
                f"the memory of image versions cannot be used: {self._path}",
                why=str(error),
                hint="remove the file; the next image that is taken counts as the highest",
            ) from error
        return seen.highest
