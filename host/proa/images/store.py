"""Images on disk: imported whole and checked, and checked again whenever a file is not the one that was."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proa.images import manifest as manifests
from proa.images.manifest import Manifest
from proa.model.errors import ProaError
from proa.system.files import explain, make_private_folder, read_bytes, remove_tree, write_atomic

CHECKED_VERSION = 1
_CHUNK = 1 << 20
_ARCHITECTURES = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "arm64": "arm64"}

Progress = Callable[[float], None]  # 0..1


@dataclass(frozen=True)
class Image:
    """One imported image."""

    folder: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def kernel(self) -> Path:
        return self.folder / "kernel"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def root(self) -> Path:
        return self.folder / "root.erofs"


class _Checked(msgspec.Struct, frozen=True):
    """checked.json, version 1: the identity that each file had when its hash was right."""

    version: int
    files: dict[str, tuple[int, int, int, int]]


class ImageStore:
    """The images of one installation, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, identity: str) -> Image:
        """Raises ProaError `image-missing`, or what is wrong with its manifest."""
        folder = self._folder / identity
        if not identity.isalnum() or not folder.is_dir():
            known = ", ".join(sorted(entry.name for entry in self._folders())) or "none"
            raise ProaError(
                "image-missing",
                f"there is no guest image {identity[:40]!r}",
                why=f"images: {known}",
                hint="choose one of them (image in machine.toml), or build one: make image",
            )
        return _fitting(Image(folder, manifests.read(folder)))

    def newest(self) -> Image:
        """The image that was imported last. Raises ProaError `image-missing`."""
        folders = sorted(self._folders(), key=lambda entry: entry.stat().st_mtime)
        if not folders:
            raise ProaError(
                "image-missing",
                "there is no guest image",
                why=f"{self._folder} is empty",
                hint="build and import one, in the checkout: make image",
            )
        return self.get(folders[-1].name)

    def _folders(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return [
            entry for entry in self._folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
        ]

    def import_image(self, source: Path, progress: Progress) -> Image:
        """Copy an image in, hashing on the way; it is there whole or not at all.

        Raises ProaError `image-altered`, `manifest-corrupt`, `disk-full` …
        """
        manifest = manifests.read(source)
        target = self._folder / manifest.id
        make_private_folder(self._folder)
        for leftover in self._folder.glob(".partial-*"):
            remove_tree(leftover)
        if target.is_dir() and manifests.read(target) == manifest:
            image = _fitting(Image(target, manifest))
            self.verify(image)
            # It is the newest again.
            target.touch()
            return image
        partial = make_private_folder(self._folder / f".partial-{manifest.id}")
        try:
            self._copy(source, partial, manifest, progress)
            remove_tree(target)
            partial.rename(target)
        except OSError as error:
            raise explain(error, f"import the image {manifest.id}") from error
        finally:
            remove_tree(partial)
        image = _fitting(Image(target, manifest))
        self._remember(image)
        return image

    def _copy(self, source: Path, target: Path, manifest: Manifest, progress: Progress) -> None:
        total = sum(entry.size for entry in manifest.files.values()) or 1
        done = 0
        for name, entry in manifest.files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
            (target / name).chmod(0o700 if name.startswith("cli/") else 0o600)
            _check_file(target / name, entry.size, entry.sha256)
            done += entry.size
            progress(done / total)
        write_atomic(target / manifests.NAME, read_bytes(source / manifests.NAME))

    def verify(self, image: Image) -> None:
        """Hash every file that is not the one that was checked. Raises ProaError `image-altered`."""
        known = self._recall(image)
        changed = False
        for name, entry in image.manifest.files.items():
            path = image.folder / name
            if known.get(name) != _identity(path):
                _check_file(path, entry.size, entry.sha256)
                changed = True
        if changed:
            self._remember(image)

    def _recall(self, image: Image) -> dict[str, tuple[int, int, int, int]]:
        try:
            checked = msgspec.json.decode(read_bytes(image.folder / "checked.json"), type=_Checked)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError, ProaError):
            return {}
        return checked.files if checked.version == CHECKED_VERSION else {}

    def _remember(self, image: Image) -> None:
        found = {name: _identity(image.folder / name) for name in image.manifest.files}
        files = {name: identity for name, identity in found.items() if identity is not None}
        write_atomic(image.folder / "checked.json", msgspec.json.encode(_Checked(CHECKED_VERSION, files)))


def _identity(path: Path) -> tuple[int, int, int, int] | None:
    """Inode, size, times of content and of attributes (ns): what changes when a file does."""
    try:
        found = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _check_file(path: Path, size: int, sha256: str) -> None:
    try:
        found = path.lstat().st_size
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _altered(path, error.strerror or str(error)) from error
    if found != size:
        raise _altered(path, f"it has {found} bytes, and its manifest says {size}")
    if digest != sha256:
        raise _altered(path, "its content is not what its manifest says")


def _altered(path: Path, why: str) -> ProaError:
    return ProaError(
        "image-altered",
        f"the guest image is refused: {path}",
        why=why,
        hint="build and import it again: make image",
    )


def _fitting(image: Image) -> Image:
    own = _ARCHITECTURES.get(platform.machine(), platform.machine())
    if image.manifest.architecture != own:
        raise ProaError(
            "image-architecture",
            f"the guest image {image.id} does not fit this computer",
            why=f"it is for {image.manifest.architecture}, and this is {own}",
            hint="build one that fits: make image",
        )
    return image
