"""A guest image as the agent tells of it: the shape of `proa image list --json` and `verify --json`."""

from __future__ import annotations

import msgspec

from proa.model.problem import Problem


class ImageInfo(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    version: str = ""  # empty, as all that follows, where the image cannot be read: see `problem`
    architecture: str = ""  # Debian's name: amd64, arm64
    suite: str = ""
    kernel_version: str = ""
    size: int = 0  # bytes of all its files
    packages: int = 0  # how many
    signer: str = ""  # `release`, `local`, or the name of a key that the user trusts
    newest: bool = False  # what a machine gets that names no image
    used_by: tuple[str, ...] = ()  # machines
    folder: str = ""
    sources: str = ""  # the list of source packages, with versions and licences (a file)
    source_offer: str = ""  # the written offer of the source code (a file)
    problem: Problem | None = None


class BuildRequest(msgspec.Struct, frozen=True, kw_only=True):
    archive: str = ""  # an absolute path: also write the signed image there, as one file


class FetchRequest(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    allow_older: bool = False


class ImportRequest(msgspec.Struct, frozen=True, kw_only=True):
    path: str  # absolute; a folder or an archive
    allow_older: bool = False
