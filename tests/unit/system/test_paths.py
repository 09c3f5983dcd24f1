from __future__ import annotations

import stat
import sys
import warnings
from pathlib import Path

import pytest

from proa.model.errors import ProaError
from proa.system.paths import Places
from proa.system.roots import MAX_SOCKET_PATH, run_folder


def test_one_folder_holds_everything_with_proa_home(tmp_path: Path) -> None:
    places = Places.current({"PROA_HOME": str(tmp_path / "home")})
    places.make()
    machine = places.machine("default")
    assert machine.engine_socket == tmp_path / "home/run/default/docker.sock"
    assert places.agent_socket == tmp_path / "home/run/agent.sock"
    for path in (places.images, places.machines, places.run, places.logs, places.cache):
        assert path.is_relative_to(tmp_path / "home")
        assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


@pytest.mark.parametrize("home", ["relative/folder", "/with\nnewline", "/with\x1bescape"])
def test_a_home_that_cannot_be_used_is_refused(home: str) -> None:
    with pytest.raises(ProaError) as caught:
        Places.current({"PROA_HOME": home})
    assert (caught.value.code, caught.value.usage) == ("bad-home", True)


def test_a_home_too_long_for_a_socket_is_refused_with_the_way_out(tmp_path: Path) -> None:
    home = tmp_path / ("x" * MAX_SOCKET_PATH)
    places = Places.current({"PROA_HOME": str(home)})
    for path in (lambda: places.agent_socket, lambda: places.machine("default").engine_socket):
        with pytest.raises(ProaError) as caught:
            path()
        assert caught.value.code == "socket-path-too-long"
        assert "PROA_HOME" in caught.value.hint


@pytest.mark.skipif(sys.platform != "linux", reason="a folder where not even root may write")
def test_a_home_that_is_not_writable_is_refused() -> None:
    with pytest.raises(ProaError) as caught:
        Places.current({"PROA_HOME": "/sys/proa-home"}).make()
    assert caught.value.code == "folder-not-writable"


def test_a_host_without_a_runtime_folder_gets_one_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Path(run_folder({})).is_absolute()
