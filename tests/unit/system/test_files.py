from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from proa.model.errors import ProaError
from proa.system import files


def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    files.write_atomic(path, b"one")
    files.write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "state.json"
    files.write_atomic(path, b"old")

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((os, "fsync", fail) if failing == "fsync" else (Path, "replace", fail)))
    with pytest.raises(ProaError) as caught:
        files.write_atomic(path, b"new")
    assert caught.value.code == "disk-full"
    assert str(path) in caught.value.message
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_a_folder_open_to_others_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    files.make_private_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_link_in_the_place_of_a_private_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ProaError) as caught:
        files.make_private_folder(tmp_path / "run")
    assert caught.value.code == "folder-not-private"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_another_users_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", 65534, 65534)
    with pytest.raises(ProaError) as caught:
        files.make_private_folder(tmp_path / "run")
    assert caught.value.code == "folder-not-private"
    assert "65534" in caught.value.why


def test_a_file_in_the_way_of_a_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProaError) as caught:
        files.make_private_folder(tmp_path / "file" / "run")
    assert caught.value.code == "folder-not-writable"


def test_a_state_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 100)
    with pytest.raises(ProaError) as caught:
        files.read_bytes(tmp_path / "big", limit=99)
    assert caught.value.code == "file-too-large"


def test_tail_gives_the_last_lines_and_nothing_where_there_is_no_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\r\n\ntwo\xff\nthree\n")
    assert files.tail(log, 2) == ("two\N{REPLACEMENT CHARACTER}", "three")
    assert files.tail(tmp_path / "none", 2) == ()
