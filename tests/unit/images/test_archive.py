"""Hostile archives: links, devices, traversal, other members, other orders; nothing is written outside."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from proa.images.keys import Keyring
from proa.images.store import Image, ImageStore
from proa.model.errors import ProaError
from tests.support.images import make_image

Member = tuple[tarfile.TarInfo, bytes]


@pytest.fixture
def image(tmp_path: Path) -> Image:
    store = ImageStore(tmp_path / "maker", Keyring(tmp_path / "keys"))
    return store.import_image(make_image(tmp_path / "built"), lambda _: None, built_here=True)


def members(image: Image) -> list[Member]:
    found = []
    for name in ("manifest.json", "manifest.sig", *image.manifest.files):
        data = (image.folder / name).read_bytes()
        info = tarfile.TarInfo(name)
        info.size = len(data)
        found.append((info, data))
    return found


def write(path: Path, entries: list[Member], form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return path


def _as(kind: bytes, target: str = "/etc/passwd") -> Callable[[list[Member]], list[Member]]:
    def change(entries: list[Member]) -> list[Member]:
        info = tarfile.TarInfo(entries[2][0].name)
        info.type, info.linkname = kind, target
        return [*entries[:2], (info, b""), *entries[3:]]

    return change


def _named(name: str) -> Callable[[list[Member]], list[Member]]:
    def change(entries: list[Member]) -> list[Member]:
        info = tarfile.TarInfo(name)
        info.size = entries[2][0].size
        return [*entries[:2], (info, entries[2][1]), *entries[3:]]

    return change


def _extra(entries: list[Member]) -> list[Member]:
    info = tarfile.TarInfo("../../evil")
    info.size = 4
    return [*entries, (info, b"evil")]


def _link_first(entries: list[Member]) -> list[Member]:
    info = tarfile.TarInfo("cli")
    info.type, info.linkname = tarfile.SYMTYPE, "/tmp"
    return [*entries[:2], (info, b""), *entries[2:]]


CHANGES: dict[str, Callable[[list[Member]], list[Member]]] = {
    "symlink": _as(tarfile.SYMTYPE),
    "hard link": _as(tarfile.LNKTYPE),
    "device": _as(tarfile.CHRTYPE),
    "fifo": _as(tarfile.FIFOTYPE),
    "folder": _as(tarfile.DIRTYPE),
    "absolute": _named("/etc/kernel"),
    "traversal": _named("../kernel"),
    "another name": _named("kernel2"),
    "a member more": _extra,
    "a link first": _link_first,
    "a member less": lambda entries: entries[:-1],
    "twice": lambda entries: [*entries[:3], entries[2], *entries[3:]],
    "another order": lambda entries: [*entries[:2], *reversed(entries[2:])],
    "signature first": lambda entries: [entries[1], entries[0], *entries[2:]],
    "no signature": lambda entries: [entries[0], *entries[2:]],
    "nothing": lambda entries: [],
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_shape_is_refused(image: Image, tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "hostile.tar", CHANGES[change](members(image)))
    store = ImageStore(tmp_path / "images", Keyring(tmp_path / "keys"))
    with pytest.raises(ProaError) as caught:
        store.import_image(path, lambda _: None)
    assert caught.value.code == "archive-wrong"
    assert store.names() == ()
    assert [entry.name for entry in tmp_path.glob("images/*")] in ([], [".lock"])
    assert not (tmp_path / "evil").exists() and not (tmp_path.parent / "evil").exists()


def test_what_tar_writes_of_the_folder_is_taken(image: Image, tmp_path: Path) -> None:
    path = write(tmp_path / "plain.tar", members(image))
    store = ImageStore(tmp_path / "images", Keyring(tmp_path / "keys"))
    assert store.import_image(path, lambda _: None).id == image.id


def test_no_extended_header_is_followed(image: Image, tmp_path: Path) -> None:
    entries = members(image)
    entries[2][0].pax_headers = {"path": "../evil", "comment": "x" * 100_000}
    path = write(tmp_path / "pax.tar", entries, tarfile.PAX_FORMAT)
    with pytest.raises(ProaError) as caught:
        ImageStore(tmp_path / "images", Keyring(tmp_path / "keys")).import_image(path, lambda _: None)
    assert caught.value.code == "archive-wrong"


@pytest.mark.parametrize("size", [0, 1, 511, 512, 4000, 20_000])
def test_a_truncated_archive_is_refused(image: Image, tmp_path: Path, size: int) -> None:
    path = write(tmp_path / "cut.tar", members(image))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ProaError) as caught:
        ImageStore(tmp_path / "images", Keyring(tmp_path / "keys")).import_image(path, lambda _: None)
    assert caught.value.code == "archive-wrong"


def test_a_device_or_a_link_is_no_archive(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images", Keyring(tmp_path / "keys"))
    (tmp_path / "link").symlink_to("/etc/passwd")
    for path in (Path("/dev/zero"), tmp_path / "link"):
        with pytest.raises(ProaError):
            store.import_image(path, lambda _: None)
    with pytest.raises(ProaError) as caught:
        store.import_image(tmp_path / "nothing", lambda _: None)
    assert caught.value.code == "file-missing"
