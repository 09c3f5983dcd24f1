"""Disks are told apart by their first bytes; real file systems are made for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from proa_guest import disk


def _made(path: Path, size: str, *argv: str) -> bytes:
    with path.open("wb") as file:
        file.truncate(int(size) << 20)
    subprocess.run([*argv, str(path)], check=True, capture_output=True)
    with path.open("rb") as file:
        return file.read(disk.HEAD)


def test_a_blank_disk_is_blank_and_nothing_else_is() -> None:
    assert disk.kind(bytes(disk.HEAD)) == "blank"
    for at in (0, 510, 1080, 65536, disk.HEAD - 1):
        head = bytearray(disk.HEAD)
        head[at] = 1
        assert disk.kind(bytes(head)) == "other"


def test_an_ext4_disk_is_known_with_its_size(tmp_path: Path) -> None:
    head = _made(tmp_path / "disk", "64", "mkfs.ext4", "-q", "-F")
    assert disk.kind(head) == "ext4"
    assert disk.size_in(head) == 64 << 20
    assert not disk.needs_check(head)


def test_errors_that_ext4_has_noted_are_seen(tmp_path: Path) -> None:
    head = bytearray(_made(tmp_path / "disk", "64", "mkfs.ext4", "-q", "-F"))
    head[1024 + 58] |= 2
    assert disk.needs_check(bytes(head))


@pytest.mark.parametrize("tool", [("mkfs.ext2", "-q", "-F"), ("mkfs.erofs", "--quiet", "-zlz4")])
def test_other_file_systems_are_never_blank(tmp_path: Path, tool: tuple[str, ...]) -> None:
    if tool[0] == "mkfs.erofs":
        (tmp_path / "tree").mkdir()
        subprocess.run(["mkfs.erofs", "--quiet", str(tmp_path / "disk"), str(tmp_path / "tree")], check=True)
        head = (tmp_path / "disk").read_bytes()[: disk.HEAD]
    else:
        head = _made(tmp_path / "disk", "16", *tool)
    assert disk.kind(head) != "blank"
