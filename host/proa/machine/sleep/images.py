"""A machine's memory image on disk: written aside, marked ready by a rename, consumed by another.

machines/NAME/memory.partial  while it is written
machines/NAME/memory.ready    whole, verified, and the hypervisor ends: the machine sleeps
machines/NAME/memory.used     consumed: a guest runs from it, and its files are about to be removed

In each: `header` (a line with the BLAKE2b hash of what follows it, then JSON), and the driver's files
`state` and `ram`. All of it holds the guest's memory, so it is private to the user.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

import msgspec

from proa.drivers.base import RAM_FILE, STATE_FILE
from proa.model.errors import ProaError
from proa.system.files import explain, make_private_folder, read_bytes, remove_tree, sync_folder, write_atomic
from proa.system.sparse import allocated, blocks

VERSION = 1
HEADER = "header"
Kind = Literal["stopped", "suspended"]


class Mark(msgspec.Struct, frozen=True):
    """What tells a file from another, or from itself before a change."""

    size: int
    changed: int  # mtime, nanoseconds
    inode: int

    @classmethod
    def of(cls, path: Path) -> Mark:
        """Raises OSError."""
        found = path.stat(follow_symlinks=False)
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


class SavedPort(msgspec.Struct, frozen=True):
    """A published port to be held while the machine sleeps; see proa.ports.planner.Binding."""

    host_ip: str
    host_port: int
    protocol: str
    container: str
    container_id: str
    container_port: int
    targets: tuple[str, ...]


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an image without loading it."""

    version: int = VERSION
    kind: Kind
    saved: float  # Unix time
    fingerprint: dict[str, str]
    secret: str  # of the link, hex: what the guest in the image holds
    engine_version: str
    ports: tuple[SavedPort, ...] = ()
    disk: Mark
    state: Mark
    state_hash: str
    ram: Mark | None  # None where all memory is in the state
    bytes: int  # what the image takes on disk


class Unusable(Exception):
    """The image must not be used; the words are why, for a person."""


class ImageFolder:
    """The memory image of one machine, whose folder is `folder` and whose data disk is `disk`."""

    def __init__(self, folder: Path, disk: Path) -> None:
        self._folder = folder
        self._disk = disk
        self.partial = folder / "memory.partial"
        self.ready = folder / "memory.ready"
        self.used = folder / "memory.used"

    # -- looking -------------------------------------------------------------------------------

    def peek(self) -> Header | None:
        """The header of a ready image; None where there is none, or none that can be read."""
        try:
            return self._header()
        except Unusable:
            return None

    def exists(self) -> bool:
        return self.ready.is_dir()

    def _header(self) -> Header | None:
        try:
            data = read_bytes(self.ready / HEADER)
        except FileNotFoundError:
            if self.ready.is_dir():
                raise Unusable("its header is missing") from None
            return None
        except ProaError as error:
            raise Unusable(error.why or error.message) from error
        told, _, body = data.partition(b"\n")
        if _hash(body) != told.decode("ascii", "replace"):
            raise Unusable("its header was altered")
        try:
            header = msgspec.json.decode(body, type=Header)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Unusable(f"its header cannot be read: {error}") from error
        if header.version != VERSION:
            raise Unusable(f"its format is {header.version}, and this Proa reads {VERSION}")
        return header

    def check(self, fingerprint: dict[str, str]) -> Header:
        """The header of an image that may be loaded here and now. Raises Unusable with the reason."""
        header = self._header()
        if header is None:
            raise Unusable("it is gone")
        for what, value in fingerprint.items():
            saved = header.fingerprint.get(what, "")
            if saved != value:
                raise Unusable(_differs(what, saved, value))
        try:
            if Mark.of(self._disk) != header.disk:
                raise Unusable("the disk is not the one that it was saved with")
            self._check_files(self.ready, header)
        except OSError as error:
            raise Unusable(f"it cannot be read: {error.strerror or error}") from error
        return header

    def _check_files(self, folder: Path, header: Header) -> None:
        if (
            Mark.of(folder / STATE_FILE) != header.state
            or _file_hash(folder / STATE_FILE) != header.state_hash
        ):
            raise Unusable("the state of its devices was altered or cut off")
        if header.ram is not None and Mark.of(folder / RAM_FILE) != header.ram:
            raise Unusable("its memory was altered or cut off")

    # -- writing -------------------------------------------------------------------------------

    def begin(self) -> Path:
        """A new empty folder to save into. There is no ready image from here on. Raises ProaError."""
        self.drop()
        return make_private_folder(self.partial)

    def complete(
        self,
        *,
        kind: Kind,
        saved: float,
        fingerprint: dict[str, str],
        secret: bytes,
        engine_version: str,
        ports: tuple[SavedPort, ...],
    ) -> Header:
        """Write the header of what was saved into `partial`, and verify all. Raises ProaError.

        The disk must be as it will stay: the hypervisor has written its last.
        """
        state, ram = self.partial / STATE_FILE, self.partial / RAM_FILE
        try:
            header = Header(
                kind=kind,
                saved=saved,
                fingerprint=fingerprint,
                secret=secret.hex(),
                engine_version=engine_version,
                ports=ports,
                disk=Mark.of(self._disk),
                state=Mark.of(state),
                state_hash=_file_hash(state),
                ram=Mark.of(ram) if ram.exists() else None,
                bytes=sum(_taken(path) for path in (state, ram) if path.exists()),
            )
            if header.state.size == 0:
                raise _not_saved("the state of its devices is empty")
            body = msgspec.json.encode(header)
            write_atomic(self.partial / HEADER, _hash(body).encode() + b"\n" + body)
            self._check_files(self.partial, header)
        except OSError as error:
            raise explain(error, "save the machine's memory") from error
        except Unusable as error:
            raise _not_saved(str(error)) from error
        return header

    def mark_ready(self) -> None:
        """From here on the machine sleeps, as soon as its hypervisor is gone. Raises ProaError."""
        self._rename(self.partial, self.ready)

    def consume(self) -> None:
        """From here on this image is used up, whatever happens. Durable on return. Raises ProaError."""
        remove_tree(self.used)
        self._rename(self.ready, self.used)

    def _rename(self, old: Path, new: Path) -> None:
        try:
            old.rename(new)
            sync_folder(self._folder)
        except OSError as error:
            raise explain(error, f"rename {old}") from error

    # -- removing ------------------------------------------------------------------------------

    def drop(self) -> None:
        """Remove every image, ready or not. Raises ProaError where one cannot be removed."""
        if self.ready.exists():
            self.consume()
        self.sweep()

    def sweep(self) -> None:
        """Remove what was used, and what was not finished."""
        remove_tree(self.partial)
        remove_tree(self.used)


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def _file_hash(path: Path) -> str:
    """Of its content and where it is; holes cost nothing. Raises OSError."""
    found = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        for at, data in blocks(file.fileno()):
            found.update(at.to_bytes(8, "little"))
            found.update(data)
    return found.hexdigest()


def _taken(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return allocated(fd)
    finally:
        os.close(fd)


def _differs(what: str, saved: str, now: str) -> str:
    if what in ("devices", "settings", "disk"):
        return f"the machine's {what} changed"
    return f"{what}: it was saved with {saved or 'nothing'}, and this is {now or 'nothing'}"


def _not_saved(why: str) -> ProaError:
    return ProaError(
        "memory-save-failed", "the machine's memory could not be saved", why=why, layer="hypervisor"
    )
