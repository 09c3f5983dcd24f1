"""The builder's pure parts: archive format, modules, the welcome image, keys."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "vmimages"
sys.path.insert(0, str(FOLDER))

import build  # noqa: E402
import cpio  # noqa: E402
import modules  # noqa: E402
import recipe  # noqa: E402
import welcome  # noqa: E402


def test_an_archive_is_read_by_cpio_as_it_was_written(tmp_path: Path) -> None:
    entries = [
        cpio.folder("bin"),
        cpio.Entry("bin/x", 0o100755, b"hello"),
        cpio.Entry("bin/y", 0o120777, b"x"),
    ]
    data = cpio.archive(entries)
    assert data == cpio.archive(entries)
    subprocess.run(["cpio", "-idm", "--quiet"], input=data, cwd=tmp_path, check=True)
    assert (tmp_path / "bin/y").read_bytes() == b"hello"
    assert (tmp_path / "bin/x").stat().st_mode & 0o777 == 0o755


@pytest.fixture
def kernel(tmp_path: Path) -> modules.Modules:
    folder = tmp_path / "6.1"
    folder.mkdir()
    (folder / "modules.dep").write_text(
        "kernel/a/top-x.ko.xz: kernel/b/mid.ko.xz kernel/c/low.ko.xz\n"
        "kernel/b/mid.ko.xz: kernel/c/low.ko.xz\nkernel/c/low.ko.xz:\n"
    )
    (folder / "modules.builtin").write_text("kernel/d/inside.ko\n")
    return modules.Modules(folder)


def test_a_module_comes_behind_all_that_it_needs(kernel: modules.Modules) -> None:
    assert kernel.closure(["top_x"]) == ["kernel/c/low.ko.xz", "kernel/b/mid.ko.xz", "kernel/a/top-x.ko.xz"]
    assert kernel.closure(["low", "mid", "inside", "nowhere"]) == ["kernel/c/low.ko.xz", "kernel/b/mid.ko.xz"]
    assert kernel.unknown(["top-x", "inside", "nowhere"]) == ["nowhere"]


def test_the_welcome_image_is_what_docker_save_writes() -> None:
    data = welcome.build(b"\x7fELF", FOLDER / "welcome.html", "amd64")
    assert data == welcome.build(b"\x7fELF", FOLDER / "welcome.html", "amd64")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        config = json.load(archive.extractfile(manifest["Config"]))  # type: ignore[arg-type]
        layer = archive.extractfile(manifest["Layers"][0]).read()  # type: ignore[union-attr]
    assert manifest["RepoTags"] == ["proa/welcome:latest"]
    import hashlib

    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as files:
        assert files.getnames() == ["bin/httpd", "www/index.html"]


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = (FOLDER / "welcome.html").read_text()
    assert "http" not in page.replace("httpd", "") and "<script" not in page and "url(" not in page


def test_the_key_changes_with_everything_an_image_is_built_from(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("1")
    first = build.key_of("amd64", {"docker.io": "1"}, file, tmp_path)
    assert first == build.key_of("amd64", {"docker.io": "1"}, file, tmp_path)
    assert first != build.key_of("arm64", {"docker.io": "1"}, file, tmp_path)
    assert first != build.key_of("amd64", {"docker.io": "2"}, file, tmp_path)
    file.write_text("2")
    assert first != build.key_of("amd64", {"docker.io": "1"}, file, tmp_path)


def test_no_module_is_named_twice() -> None:
    names = [*recipe.BOOT_MODULES, *recipe.MORE_MODULES]
    assert sorted(set(names)) == sorted(names)
