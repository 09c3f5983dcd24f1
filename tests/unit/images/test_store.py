from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proa.images.store import ImageStore
from proa.model.errors import ProaError

OWN = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    def make(identity: str = "abc123", **changes: Any) -> Path:
        folder = tmp_path / f"built-{identity}"
        (folder / "cli/cli-plugins").mkdir(parents=True)
        files = {}
        for name in ("kernel", "initrd", "root.erofs", "cli/docker", "cli/cli-plugins/docker-compose"):
            data = os.urandom(5000)
            (folder / name).write_bytes(data)
            files[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest = {
            "format": 1, "id": identity, "architecture": OWN, "suite": "trixie", "kernel_version": "6",
            "protocol": 1, "commandline": "", "files": files, "packages": {},
        }  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))
        return folder

    return make


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


def test_an_image_is_imported_whole_and_private(store: ImageStore, make: Callable[..., Path]) -> None:
    seen: list[float] = []
    image = store.import_image(make(), seen.append)
    assert store.newest() == store.get("abc123") == image
    assert seen[-1] == 1.0
    assert stat.S_IMODE(image.folder.stat().st_mode) == 0o700
    assert os.access(image.folder / "cli/docker", os.X_OK)
    store.import_image(make.__call__("def456"), seen.append)
    assert store.newest().id == "def456"


def test_importing_again_makes_it_the_newest_again(store: ImageStore, make: Callable[..., Path]) -> None:
    first = make()
    store.import_image(first, lambda _: None)
    store.import_image(make("def456"), lambda _: None)
    os.utime(store.get("def456").folder, (1, 1))
    store.import_image(first, lambda _: None)
    assert store.newest().id == "abc123"


@pytest.mark.parametrize("name", ["kernel", "root.erofs", "cli/docker"])
@pytest.mark.parametrize("change", ["flip", "truncate", "remove", "link"])
def test_an_altered_file_is_named_and_refused(
    store: ImageStore, make: Callable[..., Path], tmp_path: Path, name: str, change: str
) -> None:
    image = store.import_image(make(), lambda _: None)
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
    store: ImageStore, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = store.import_image(make(), lambda _: None)
    hashed: list[str] = []
    real = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, kind: (hashed.append(file.name), real(file, kind))[1]
    )
    store.verify(image)
    assert hashed == []
    os.utime(image.kernel)
    store.verify(image)
    assert hashed == [str(image.kernel)]
    (image.folder / "checked.json").write_text("{")  # a broken memory is no memory
    store.verify(image)
    assert len(hashed) == 6


def test_a_source_that_is_altered_leaves_nothing(
    store: ImageStore, make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make()
    (source / "initrd").write_bytes(b"evil")
    with pytest.raises(ProaError) as caught:
        store.import_image(source, lambda _: None)
    assert caught.value.code == "image-altered"
    assert list((tmp_path / "images").iterdir()) == []


def test_a_full_disk_leaves_nothing(
    store: ImageStore, make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    source = make()
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ProaError) as caught:
        store.import_image(source, lambda _: None)
    assert caught.value.code == "disk-full"
    assert list((tmp_path / "images").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"format": 2}, "image-format-unknown"),
        ({"files": {}}, "manifest-corrupt"),
        ({"id": "../../evil"}, "manifest-corrupt"),
        ({"files": {"../evil": {"size": 1, "sha256": ""}}}, "manifest-corrupt"),
        ({"architecture": "riscv64"}, "image-architecture"),
        ({"id": 5}, "manifest-corrupt"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(
    store: ImageStore, make: Callable[..., Path], changes: dict[str, Any], code: str
) -> None:
    source = make()
    content = json.loads((source / "manifest.json").read_text())
    if changes.get("files"):
        changes = {"files": {**content["files"], **changes["files"]}}
    (source / "manifest.json").write_text(json.dumps({**content, **changes}))
    with pytest.raises(ProaError) as caught:
        store.import_image(source, lambda _: None)
    assert caught.value.code == code


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"null"])
def test_a_corrupt_manifest_names_its_file(
    store: ImageStore, make: Callable[..., Path], content: bytes
) -> None:
    image = store.import_image(make(), lambda _: None)
    (image.folder / "manifest.json").write_bytes(content)
    with pytest.raises(ProaError) as caught:
        store.newest()
    assert caught.value.code == "manifest-corrupt"
    assert str(image.folder / "manifest.json") in caught.value.message


def test_no_image_says_how_to_get_one(store: ImageStore) -> None:
    for look in (store.newest, lambda: store.get("abc")):
        with pytest.raises(ProaError) as caught:
            look()
        assert caught.value.code == "image-missing"
        assert "make image" in caught.value.hint
