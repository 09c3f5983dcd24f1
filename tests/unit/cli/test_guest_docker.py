"""What the guest's Docker CLI is told of the user: words, folder, environment and settings, and no login."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from proa.cli.guest_docker import request_of
from proa.model.errors import ProaError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's Docker folder; their current folder is beside it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "docker").mkdir()
    return tmp_path / "docker"


def test_all_is_told_but_logins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "config.json").write_text(json.dumps({"psFormat": "x", "auths": {"a": {"auth": "c2VjcmV0"}}}))
    monkeypatch.setenv("MINE", "1")
    told = request_of(["ps", "-a"], folder)
    assert told.argv == ("ps", "-a")
    assert told.cwd == str(folder.parent / "here")
    assert told.home == str(Path.home())
    assert told.environ["MINE"] == "1"
    assert told.settings == {"psFormat": "x"}
    assert len(told.terminals) == 3 and told.rows > 0 and told.columns > 0


def test_settings_that_cannot_be_read_are_said_and_hinder_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "config.json").write_text("{")
    assert request_of(["ps"], folder).settings == {}
    assert str(folder / "config.json") in capsys.readouterr().err


def test_what_is_no_text_is_refused_or_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProaError) as refused:
        request_of(["cp", os.fsdecode(b"\xff"), "x:/"], folder)
    assert refused.value.usage
    monkeypatch.setenv("ODD", os.fsdecode(b"\xff"))
    assert "ODD" not in request_of(["ps"], folder).environ


def test_a_current_folder_that_is_gone_is_said(folder: Path) -> None:
    (folder.parent / "here").rmdir()
    with pytest.raises(ProaError) as refused:
        request_of(["ps"], folder)
    assert refused.value.code == "folder-gone"
