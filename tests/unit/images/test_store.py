from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proa.images import intake
from proa.images.keys import Keyring
from proa.images.store import Image, ImageStore
from proa.model.errors import ProaError
from tests.support.images import make_image


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    return lambda identity="abc123", **changes: make_image(
        tmp_path / f"built-{identity}", identity, **changes
    )


class Store(ImageStore):
    """Takes in what was built here, as `make image` does."""

    def take(self, source: Path, progress: intake.Progress = lambda fraction: None) -> Image:
        return self.import_image(source, progress, built_here=True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "images", Keyring(tmp_path / "keys"))


def test_an_image_that_is_not_signed_is_refused(store: Store, make: Callable[..., Path]) -> None:
    with pytest.raises(ProaError) as caught:
        store.import_image(make(), lambda _: None)
    assert caught.value.code == "image-unsigned"
    assert store.names() == ()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda folder: (folder / "manifest.sig").unlink(), "image-unsigned"),
        (lambda folder: (folder / "manifest.sig").write_bytes(b"{}"), "image-signature-wrong"),
        (lambda folder: _spoil(folder / "manifest.json", b'"suite":', b'"suite" :'), "image-signature-wrong"),
        (lambda folder: _spoil(folder / "manifest.sig", b'"key": "', b'"key": "0'), "image-signer-unknown"),
    ],
)
def test_a_signature_that_is_spoiled_later_is_seen_before_a_start(
    store: Store, make: Callable[..., Path], spoil: Callable[[Path], object], code: str
) -> None:
    image = store.take(make())
    spoil(image.folder)
    for look in (store.newest, lambda: store.verify(image)):
        with pytest.raises(ProaError) as caught:
            look()
        assert caught.value.code == code
    # What it was taken from mends it.
    store.take(image.folder.parent.parent / "built-abc123")
    store.verify(store.newest(), every=True)


def _spoil(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def test_an_image_whose_key_is_trusted_no_more_is_refused(store: Store, make: Callable[..., Path]) -> None:
    image = store.take(make())
    (image.folder.parent.parent / "keys/local.pub").unlink()
    with pytest.raises(ProaError) as caught:
        store.newest()
    assert caught.value.code == "image-signer-unknown"


def test_an_older_image_is_refused_until_told(
    store: Store, make: Callable[..., Path], tmp_path: Path
) -> None:
    new, old = store.take(make("new1", version="1.10")), make("old1", version="1.9")
    signer = Store(tmp_path / "elsewhere", Keyring(tmp_path / "keys"))
    signed = signer.take(old).folder
    with pytest.raises(ProaError) as caught:
        store.import_image(signed, lambda _: None)
    assert caught.value.code == "image-older" and "1.10" in caught.value.why
    assert store.names() == (new.id,)
    store.import_image(signed, lambda _: None, older=True)
    assert store.newest().id == "old1"
    # Being told once does not make the old one the highest.
    with pytest.raises(ProaError):
        store.import_image(signed, lambda _: None)


def test_an_archive_is_taken_as_its_folder_is(
    store: Store, make: Callable[..., Path], tmp_path: Path
) -> None:
    image = store.take(make())
    store.pack(image, tmp_path / "image.tar")
    store.pack(image, tmp_path / "again.tar")
    assert (tmp_path / "image.tar").read_bytes() == (tmp_path / "again.tar").read_bytes()
    other = Store(tmp_path / "other", Keyring(tmp_path / "keys"))
    taken = other.import_image(tmp_path / "image.tar", lambda _: None)
    for name in image.manifest.files:
        assert (taken.folder / name).read_bytes() == (image.folder / name).read_bytes()
    stranger = Store(tmp_path / "third", Keyring(tmp_path / "other-keys"))
    with pytest.raises(ProaError) as caught:
        stranger.import_image(tmp_path / "image.tar", lambda _: None)
    assert caught.value.code == "image-signer-unknown"
    # With its public key it is taken.
    (tmp_path / "other-keys/trusted").mkdir(parents=True)
    (tmp_path / "other-keys/trusted/ann.pub").write_bytes((tmp_path / "keys/local.pub").read_bytes())
    assert stranger.import_image(tmp_path / "image.tar", lambda _: None).signer.name == "ann"


def test_a_root_that_is_no_erofs_is_refused(store: Store, make: Callable[..., Path], tmp_path: Path) -> None:
    source = make()
    content = json.loads((source / "manifest.json").read_text())
    qcow2 = b"QFI\xfb" + bytes(4996)
    (source / "root.erofs").write_bytes(qcow2)
    content["files"]["root.erofs"]["sha256"] = hashlib.sha256(qcow2).hexdigest()
    (source / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ProaError) as caught:
        store.take(source)
    assert "erofs" in caught.value.why
    assert store.names() == ()


def test_a_check_does_not_make_an_image_the_newest(store: Store, make: Callable[..., Path]) -> None:
    old = store.take(make())
    os.utime(old.folder / "manifest.json", (1, 1))
    store.take(make("def456"))
    store.verify(old, every=True)
    assert store.newest().id == "def456"


def test_a_removed_image_is_gone(store: Store, make: Callable[..., Path]) -> None:
    image = store.take(make())
    store.remove(image.id)
    assert store.names() == () and not image.folder.exists()
    with pytest.raises(ProaError) as caught:
        store.remove(image.id)
    assert caught.value.code == "image-missing"


def test_an_image_is_imported_whole_and_private(store: Store, make: Callable[..., Path]) -> None:
    seen: list[float] = []
    image = store.take(make(), seen.append)
    assert store.newest() == store.get("abc123") == image
    assert seen[-1] == 1.0
    assert stat.S_IMODE(image.folder.stat().st_mode) == 0o700
    assert os.access(image.folder / "cli/docker", os.X_OK)
    store.take(make("def456"), seen.append)
    assert store.newest().id == "def456"


def test_importing_again_makes_it_the_newest_again(store: Store, make: Callable[..., Path]) -> None:
    first = make()
    store.take(first)
    store.take(make("def456"))
    os.utime(store.get("def456").folder / "manifest.json", (1, 1))
    store.take(first)
    assert store.newest().id == "abc123"


@pytest.mark.parametrize("name", ["kernel", "root.erofs", "cli/docker"])
@pytest.mark.parametrize("change", ["flip", "truncate", "remove", "link"])
def test_an_altered_file_is_named_and_refused(
    store: Store, make: Callable[..., Path], tmp_path: Path, name: str, change: str
) -> None:
    image = store.take(make())
    store.verify(image)
    path = image.folder / name
    data = path.read_bytes()
    if change == "flip":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif change == "truncate":
        os.truncate(path, 10)
    elif change == "remove":
        path.unlink()
    else:
        (tmp_path / "evil").write_bytes(bytes(len(data)))
        path.unlink()
        path.symlink_to(tmp_path / "evil")
    with pytest.raises(ProaError) as caught:
        store.verify(image)
    assert caught.value.code == "image-altered"
    assert str(path) in caught.value.message


def test_what_was_checked_is_not_hashed_again_until_it_changes(
    store: Store, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = store.take(make())
    hashed: list[str] = []
    real = intake.check_file
    monkeypatch.setattr(
        intake, "check_file", lambda path, entry: (hashed.append(str(path)), real(path, entry))[1]
    )
    store.verify(image)
    assert hashed == []
    os.utime(image.kernel)
    store.verify(image)
    assert hashed == [str(image.kernel)]
    (image.folder / "checked.json").write_text("{")  # a broken memory is no memory
    store.verify(image)
    assert len(hashed) == 8


def test_a_source_that_is_altered_leaves_nothing(
    store: Store, make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make()
    (source / "initrd").write_bytes(b"evil")
    with pytest.raises(ProaError) as caught:
        store.take(source)
    assert caught.value.code == "image-altered"
    assert [path.name for path in (tmp_path / "images").iterdir()] == [".lock"]


def test_a_full_disk_leaves_nothing(
    store: Store, make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    source = make()
    monkeypatch.setattr(intake, "_copy", full)
    with pytest.raises(ProaError) as caught:
        store.take(source)
    assert caught.value.code == "disk-full"
    assert [path.name for path in (tmp_path / "images").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"format": 3}, "image-format-unknown"),
        ({"files": {}}, "manifest-corrupt"),
        ({"id": "../../evil"}, "manifest-corrupt"),
        ({"files": {"../evil": {"size": 1, "sha256": ""}}}, "manifest-corrupt"),
        ({"architecture": "riscv64"}, "image-architecture"),
        ({"id": 5}, "manifest-corrupt"),
        ({"version": "new"}, "manifest-corrupt"),
        ({"commandline": "quiet\n"}, "manifest-corrupt"),
        ({"files": {"manifest.sig": {"size": 1, "sha256": "0" * 64}}}, "manifest-corrupt"),
        ({"files": {"huge": {"size": 1 << 40, "sha256": "0" * 64}}}, "manifest-corrupt"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(
    store: Store, make: Callable[..., Path], changes: dict[str, Any], code: str
) -> None:
    source = make()
    content = json.loads((source / "manifest.json").read_text())
    if changes.get("files"):
        changes = {"files": {**content["files"], **changes["files"]}}
    (source / "manifest.json").write_text(json.dumps({**content, **changes}))
    with pytest.raises(ProaError) as caught:
        store.take(source)
    assert caught.value.code == code


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"null"])
def test_a_corrupt_manifest_names_its_file(store: Store, make: Callable[..., Path], content: bytes) -> None:
    image = store.take(make())
    (image.folder / "manifest.json").write_bytes(content)
    with pytest.raises(ProaError) as caught:
        store.newest()
    assert caught.value.code == "manifest-corrupt"
    assert str(image.folder / "manifest.json") in caught.value.message


def test_no_image_says_how_to_get_one(store: Store) -> None:
    for look in (store.newest, lambda: store.get("abc")):
        with pytest.raises(ProaError) as caught:
            look()
        assert caught.value.code == "image-missing"
        assert "make image" in caught.value.hint
