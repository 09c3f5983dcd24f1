"""Images on disk: taken in whole, signed and checked; checked again when a file is not the one that was."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proa.images import archive, intake, signature
from proa.images import manifest as manifests
from proa.images.intake import Progress
from proa.images.keys import Keyring, TrustedKey
from proa.images.manifest import FileEntry, Manifest
from proa.images.versions import SeenVersions
from proa.model.errors import ProaError
from proa.system.files import explain, make_private_folder, read_bytes, remove_tree, sync_folder, write_atomic
from proa.system.locks import FileLock

CHECKED_VERSION = 2
LOCK_TIMEOUT = 300.0  # seconds that a second import waits for the first
_ARCHITECTURES = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "arm64": "arm64"}

Identity = tuple[int, int, int, int]


@dataclass(frozen=True)
class Image:
    """One imported image, whose signature is right."""

    folder: Path
    manifest: Manifest
    signer: TrustedKey

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
    """checked.json, version 2: the identity that each file had when it was right, and whose signature was.

    `manifest` is the SHA-256 of the manifest's bytes, `key` the id of the key that signed them.
    """

    version: int
    manifest: str
    key: str
    files: dict[str, Identity]


class ImageStore:
    """The images of one installation, each in a folder of its own."""

    def __init__(self, folder: Path, keys: Keyring) -> None:
        self._folder = folder
        self._keys = keys
        self._seen = SeenVersions(folder / "versions.json")

    # -- looking -------------------------------------------------------------------------------

    def get(self, identity: str) -> Image:
        """The image, its signature checked. Raises ProaError `image-missing`, `image-unsigned` …"""
        folder = self._folder / identity
        if not identity.isalnum() or not folder.is_dir():
            known = ", ".join(self.names()) or "none"
            raise ProaError(
                "image-missing",
                f"there is no guest image {identity[:40]!r}",
                why=f"images: {known}",
                hint="choose one of them, or get one: make image in a checkout, or proa image fetch URL",
            )
        return _fitting(self._read(folder))

    def newest(self) -> Image:
        """The image that was imported last. Raises ProaError `image-missing`, or what is wrong with it."""
        names = self.names()
        if not names:
            raise ProaError(
                "image-missing",
                "there is no guest image",
                why=f"{self._folder} is empty",
                hint="get one: make image in a checkout, or proa image fetch URL, or proa image import FILE",
            )
        return self.get(names[0])

    def names(self) -> tuple[str, ...]:
        """Ids of the images there are, usable or not; the newest first."""
        if not self._folder.is_dir():
            return ()
        found = [
            entry for entry in self._folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
        ]
        found.sort(key=lambda entry: (_imported(entry), entry.name), reverse=True)
        return tuple(entry.name for entry in found)

    def folder(self, identity: str) -> Path:
        return self._folder / identity

    def _read(self, folder: Path) -> Image:
        """The image in `folder` with its signer. Whose signature was checked before need not be again."""
        data = manifests.load(folder)
        manifest = manifests.parse(data, folder / manifests.NAME)
        known = self._recall(folder)
        if known is not None and known.manifest == hashlib.sha256(data).hexdigest():
            signer = self._keys.trusted().get(known.key)
            unchanged = known.files.get(signature.NAME) == _identity(folder / signature.NAME)
            if signer is not None and unchanged:
                return Image(folder, manifest, signer)
        signer = signature.check(data, _signature(folder), self._keys, folder)
        return Image(folder, manifest, signer)

    # -- taking in -----------------------------------------------------------------------------

    def admit(self, data: bytes, signed: bytes | None, where: Path | str, *, older: bool) -> Manifest:
        """The manifest in `data`, if an image with it may be taken in.

        Raises ProaError: signature, format, architecture or version (unless `older`) is wrong.
        """
        signer = signature.check(data, signed, self._keys, where)
        manifest = manifests.parse(data, where)
        _check_architecture(manifest)
        if not older:
            self._seen.check(signer.channel, manifest.architecture, manifest.version)
        return manifest

    def import_image(
        self, source: Path, progress: Progress, *, built_here: bool = False, older: bool = False
    ) -> Image:
        """Take in the image in a folder or an archive; it is there whole or not at all.

        built_here: it is signed with this installation's own key; whoever builds has chosen the version.
        older: it may be older than what was seen.
        Raises ProaError `image-unsigned`, `image-older`, `image-altered`, `manifest-corrupt`, `disk-full` …
        """
        make_private_folder(self._folder)
        # Under the lock from here on: two first builds at once would make two pairs of keys.
        with self._locked(), contextlib.closing(intake.open_source(source)) as opened:
            signed = opened.signature
            if built_here:
                manifests.parse(opened.manifest, opened.where)  # nonsense is not signed
                signed = signature.sign(opened.manifest, self._keys)
            manifest = self.admit(opened.manifest, signed, opened.where, older=older or built_here)
            assert signed is not None  # admit refuses it
            return self._install(opened, manifest, signed, progress)

    def _install(self, source: intake.Source, manifest: Manifest, signed: bytes, progress: Progress) -> Image:
        target = self._folder / manifest.id
        for leftover in self._folder.glob(".partial-*"):
            remove_tree(leftover)
        if not self._is_there(target, source.manifest, signed):
            self._place(source, manifest, signed, target, progress)
        image = _fitting(self._read(target))
        (target / manifests.NAME).touch()  # it is the newest (again)
        self._seen.note(image.signer.channel, manifest.architecture, manifest.version)
        return image

    def _is_there(self, target: Path, manifest: bytes, signed: bytes) -> bool:
        """True if this very image is in its place, whole; then it is signed as the new one is."""
        try:
            if not target.is_dir() or manifests.load(target) != manifest:
                return False
            write_atomic(target / signature.NAME, signed)
            self.verify(self._read(target))
        except ProaError as error:
            if error.code in ("image-altered", "manifest-corrupt"):
                return False  # the one that comes mends it
            raise
        return True

    def _place(
        self, source: intake.Source, manifest: Manifest, signed: bytes, target: Path, progress: Progress
    ) -> None:
        """Copy all files beside their place, then rename: half an image is none."""
        partial = make_private_folder(self._folder / f".partial-{manifest.id}")
        try:
            source.take(manifest, partial, progress)
            intake.check_root(partial / "root.erofs")
            write_atomic(partial / manifests.NAME, source.manifest)
            write_atomic(partial / signature.NAME, signed)
            self._remember(partial, manifest, source.manifest, signed)
            remove_tree(target)
            partial.rename(target)
            sync_folder(self._folder)
        except OSError as error:
            raise explain(error, f"import the image {manifest.id}") from error
        finally:
            remove_tree(partial)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One import or removal at a time; whoever comes second waits."""
        lock = FileLock.acquire(self._folder / ".lock", LOCK_TIMEOUT)
        if lock is None:
            raise ProaError(
                "images-busy", "the guest images are in use", why=f"another import holds {self._folder}"
            )
        try:
            yield
        finally:
            lock.release()

    # -- checking ------------------------------------------------------------------------------

    def verify(
        self, image: Image, *, every: bool = False, progress: Progress = lambda fraction: None
    ) -> None:
        """Check the signature, and hash every file that is not the one that was checked, or all.

        Raises ProaError `image-altered`, or what is wrong with manifest or signature.
        """
        data, signed = manifests.load(image.folder), _signature(image.folder)
        manifest = manifests.parse(data, image.folder)
        known = self._recall(image.folder)
        current = known is not None and known.manifest == hashlib.sha256(data).hexdigest() and not every
        files = known.files if known is not None and current else {}
        vouched = files.get(signature.NAME) == _identity(image.folder / signature.NAME)
        if not vouched or signed is None:
            signature.check(data, signed, self._keys, image.folder)
        names = [name for name in manifest.files if files.get(name) != _identity(image.folder / name)]
        self._hash(image.folder, {name: manifest.files[name] for name in names}, progress)
        if signed is not None and (names or not vouched):
            self._remember(image.folder, manifest, data, signed)

    def _hash(self, folder: Path, files: dict[str, FileEntry], progress: Progress) -> None:
        total, done = sum(entry.size for entry in files.values()) or 1, 0
        for name, entry in files.items():
            intake.check_file(folder / name, entry)
            done += entry.size
            progress(done / total)

    def _recall(self, folder: Path) -> _Checked | None:
        try:
            checked = msgspec.json.decode(read_bytes(folder / "checked.json"), type=_Checked)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError, ProaError):
            return None
        return checked if checked.version == CHECKED_VERSION else None

    def _remember(self, folder: Path, manifest: Manifest, data: bytes, signed: bytes) -> None:
        """What was found right just now: `data` and `signed` are the manifest's and its signature's bytes."""
        found = {name: _identity(folder / name) for name in (signature.NAME, *manifest.files)}
        files = {name: identity for name, identity in found.items() if identity is not None}
        key = msgspec.json.decode(signed, type=signature.Signature).key
        checked = _Checked(CHECKED_VERSION, hashlib.sha256(data).hexdigest(), key, files)
        write_atomic(folder / "checked.json", msgspec.json.encode(checked))

    # -- handing on and removing -----------------------------------------------------------------

    def pack(self, image: Image, target: Path) -> None:
        """Write the image as an archive for others, whole or not at all. Raises ProaError."""
        self.verify(image, every=True)
        partial = target.with_name(f".{target.name}.partial")
        try:
            with partial.open("wb") as out:
                archive.write(image.folder, image.manifest, out)
            partial.replace(target)
        except OSError as error:
            raise explain(error, f"write {target}") from error
        finally:
            partial.unlink(missing_ok=True)

    def remove(self, identity: str) -> None:
        """Remove an image, usable or not. The folder first changes its name: half an image is none.

        Raises ProaError `image-missing`.
        """
        if identity not in self.names():
            self.get(identity)
        with self._locked():
            doomed = self._folder / f".partial-{identity}"
            remove_tree(doomed)
            try:
                self.folder(identity).rename(doomed)
            except OSError as error:
                raise explain(error, f"remove {self.folder(identity)}") from error
            remove_tree(doomed)


def _signature(folder: Path) -> bytes | None:
    try:
        return read_bytes(folder / signature.NAME, signature.MOST)
    except FileNotFoundError:
        return None


def _imported(folder: Path) -> float:
    """When the image was taken in: its manifest's time, as the folder's changes with every check."""
    try:
        return (folder / manifests.NAME).stat().st_mtime
    except OSError:
        return 0.0


def _identity(path: Path) -> Identity | None:
    """Inode, size, times of content and of attributes (ns): what changes when a file does."""
    try:
        found = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _check_architecture(manifest: Manifest) -> None:
    own = _ARCHITECTURES.get(platform.machine(), platform.machine())
    if manifest.architecture != own:
        raise ProaError(
            "image-architecture",
            f"the guest image {manifest.id} does not fit this computer",
            why=f"it is for {manifest.architecture}, and this is {own}",
            hint="get one that fits: proa image fetch URL, or make image in a checkout",
        )


def _fitting(image: Image) -> Image:
    _check_architecture(image.manifest)
    return image
