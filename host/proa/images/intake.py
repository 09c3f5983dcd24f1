"""Taking an image's files in, from a folder or an archive: bounded, and hashed on the way."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from proa.images import archive
from proa.images import manifest as manifests
from proa.images import signature as signatures
from proa.images.manifest import FileEntry, Manifest
from proa.model.errors import ProaError
from proa.system.files import explain

CHUNK = 1 << 20
_EROFS_OFFSET, _EROFS_MAGIC = 1024, bytes.fromhex("e2e1f5e0")  # kernel: fs/erofs/erofs_fs.h

Progress = Callable[[float], None]  # 0..1


class FolderSource:
    """An image as vmimages builds it; whether it is signed yet or not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.where = folder
        self.manifest = manifests.load(folder)
        try:
            with open_regular(folder / signatures.NAME) as file:
                self.signature: bytes | None = file.read(signatures.MOST)
        except FileNotFoundError:
            self.signature = None

    def take(self, manifest: Manifest, target: Path, progress: Progress) -> None:
        meter = _Meter(manifest, progress)
        for name, entry in manifest.files.items():
            try:
                file = open_regular(self._folder / name)
            except FileNotFoundError as error:
                raise altered(self._folder / name, "it is missing") from error
            with file:
                found = os.fstat(file.fileno()).st_size
                if found != entry.size:
                    raise altered(
                        self._folder / name, f"it has {found} bytes, and its manifest says {entry.size}"
                    )
                _copy(file, self._folder / name, target / name, entry, meter)

    def close(self) -> None:
        return


class ArchiveSource:
    """An image as one file (proa.images.archive); hostile until its head is believed, and then bounded."""

    def __init__(self, path: Path) -> None:
        self.where = path
        try:
            self._file = open_regular(path)
        except FileNotFoundError as error:
            raise ProaError(
                "file-missing", f"there is no {path}", hint="give an image's folder or archive", usage=True
            ) from error
        try:
            head = archive.read_head(self._file.read(archive.MOST_HEAD))
            if head is None:
                raise archive.wrong("it ends before its signature")
        except BaseException:
            self._file.close()
            raise
        self._head = head
        self.manifest, self.signature = head.manifest, head.signature

    def take(self, manifest: Manifest, target: Path, progress: Progress) -> None:
        wanted, found = archive.length(self._head, manifest), os.fstat(self._file.fileno()).st_size
        if found != wanted:
            raise archive.wrong(f"it has {found} bytes, and its manifest makes {wanted}")
        meter = _Meter(manifest, progress)
        self._file.seek(self._head.end)
        for name, entry in manifest.files.items():
            if archive.read_header(self._file.read(archive.BLOCK), name) != entry.size:
                raise archive.wrong(f"its {name} has another size than its manifest says")
            _copy(self._file, self.where / name, target / name, entry, meter)
            if any(self._file.read(archive.padding(entry.size))):
                raise archive.wrong(f"there is something behind its {name}")
        if any(self._file.read(wanted - self._file.tell())):
            raise archive.wrong("there is something behind its last file")

    def close(self) -> None:
        self._file.close()


Source = FolderSource | ArchiveSource


def open_source(path: Path) -> Source:
    """The image at `path`, folder or archive. Raises ProaError `manifest-corrupt`, `archive-wrong` …"""
    return FolderSource(path) if path.is_dir() else ArchiveSource(path)


class _Meter:
    """How far all files together are."""

    def __init__(self, manifest: Manifest, progress: Progress) -> None:
        self._total = manifest.size or 1
        self._done = 0
        self._progress = progress

    def add(self, count: int) -> None:
        self._done += count
        self._progress(self._done / self._total)


def _copy(source: BinaryIO, path: Path, target: Path, entry: FileEntry, meter: _Meter) -> None:
    """Exactly `entry.size` bytes of `source` to `target`, durable; `path` is what an error names."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    mode = 0o700 if target.parent.name.startswith("cli") else 0o600
    digest, left = hashlib.sha256(), entry.size
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb", buffering=0) as out:
        while left:
            chunk = source.read(min(CHUNK, left))
            if not chunk:
                raise altered(path, "it ends too early")
            digest.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[out.write(view) :]
            left -= len(chunk)
            meter.add(len(chunk))
        os.fsync(out.fileno())
    if digest.hexdigest() != entry.sha256:
        raise altered(path, "its content is not what its manifest says")


def open_regular(path: Path) -> io.BufferedReader:
    """A regular file that is no link, for reading. Raises FileNotFoundError, and ProaError for the rest."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise altered(path, "it is a link" if path.is_symlink() else error.strerror or str(error)) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise altered(path, "it is no regular file")
    return os.fdopen(handle, "rb")


def check_file(path: Path, entry: FileEntry) -> None:
    """Hash a file that is in its place. Raises ProaError `image-altered`."""
    try:
        with open_regular(path) as file:
            found = os.fstat(file.fileno()).st_size
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise altered(path, "it is missing") from error
    except OSError as error:
        raise explain(error, f"read {path}") from error
    if found != entry.size:
        raise altered(path, f"it has {found} bytes, and its manifest says {entry.size}")
    if digest != entry.sha256:
        raise altered(path, "its content is not what its manifest says")


def check_root(path: Path) -> None:
    """The root is an erofs image and nothing else. Raises ProaError `image-altered`."""
    with open_regular(path) as file:
        file.seek(_EROFS_OFFSET)
        if file.read(len(_EROFS_MAGIC)) != _EROFS_MAGIC:
            raise altered(path, "it is no erofs image")


def altered(path: Path, why: str) -> ProaError:
    return ProaError(
        "image-altered",
        f"the guest image is refused: {path}",
        why=why,
        hint="get it again from where it came from, or build one in a checkout: make image",
    )
