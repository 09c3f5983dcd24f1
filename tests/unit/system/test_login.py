"""Start at login where there is no user manager of systemd (tests/machine/test_login.py has a real one)."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from proa.model.errors import ProaError
from proa.system import login
from tests.support.commands import run


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_RUNTIME_DIR", "PROA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


def test_the_desktop_starts_it(config: Path) -> None:
    assert not login.is_enabled()
    login.enable()
    login.enable()
    assert login.is_enabled()
    entry = (config / "autostart/proa.desktop").read_text()
    assert f'Exec="{sys.executable}" "-m" "proa.agent"\n' in entry
    login.disable()
    login.disable()
    assert not login.is_enabled()
    assert list((config / "autostart").iterdir()) == []


def test_an_installation_of_its_own_has_an_entry_of_its_own(
    config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    login.enable()
    monkeypatch.setenv("PROA_HOME", str(tmp_path / "a home"))
    assert not login.is_enabled()
    login.enable()
    own = next(path for path in (config / "autostart").iterdir() if path.name != "proa.desktop")
    line = next(line for line in own.read_text().splitlines() if line.startswith("Exec="))
    argv = [*shlex.split(line.removeprefix("Exec="))[:2], "sh", "-c", "echo $PROA_HOME"]
    assert run(argv, timeout=20).check().out == f"{tmp_path}/a home"
    login.disable()
    monkeypatch.delenv("PROA_HOME")
    assert login.is_enabled()


def test_what_cannot_be_written_is_said(config: Path) -> None:
    config.write_text("in the way")
    with pytest.raises(ProaError) as caught:
        login.enable()
    assert caught.value.code == "folder-not-writable" and str(config) in caught.value.message


def test_without_a_manager_no_session_ends_and_nothing_listens() -> None:
    assert not login.is_leaving()
    login.listen_for("work", wanted=True)
