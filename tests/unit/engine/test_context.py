"""Contexts in a user's Docker folder, read back by the real Docker CLI."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from proa.engine.context import DockerConfig
from proa.model.errors import ProaError

DOCKER = shutil.which("docker")
SOCKET = Path("/run/user/1000/proa/default/docker.sock")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "docker"


def config(folder: Path, default_socket: Path | None = None) -> DockerConfig:
    return DockerConfig(folder, default_socket or folder / "no.sock")


def current(folder: Path) -> object:
    path = folder / "config.json"
    return json.loads(path.read_text()).get("currentContext") if path.exists() else None


def docker(folder: Path, *args: str) -> str:
    assert DOCKER is not None
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}
    done = subprocess.run(
        [DOCKER, *args],
        env={**kept, "DOCKER_CONFIG": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(DOCKER is None, reason="there is no Docker CLI")
def test_the_docker_cli_reads_what_was_made(folder: Path) -> None:
    assert config(folder).publish("default", SOCKET, may_be_current=True)
    assert not config(folder).publish("work", Path("/run/w.sock"), may_be_current=True)
    listed = docker(folder, "context", "ls", "--format", "{{.Name}} {{.Current}} {{.DockerEndpoint}}")
    assert f"proa true unix://{SOCKET}" in listed.splitlines()
    assert "proa-work false unix:///run/w.sock" in listed.splitlines()
    assert json.loads(docker(folder, "context", "inspect", "proa"))[0]["Name"] == "proa"
    config(folder).withdraw("default", SOCKET)
    listed = docker(folder, "context", "ls", "--format", "{{.Name}} {{.Current}}")
    assert listed.splitlines() == ["default true", "proa-work false"]


def test_it_becomes_current_only_where_nothing_else_is_chosen(folder: Path, tmp_path: Path) -> None:
    assert not config(folder).publish("default", SOCKET, may_be_current=False)
    assert current(folder) is None
    with socket.socket(socket.AF_UNIX) as listener:
        taken = tmp_path / "docker.sock"
        listener.bind(str(taken))
        listener.listen()
        assert not config(folder, taken).publish("a", SOCKET, may_be_current=True)
    (folder / "config.json").write_text('{"currentContext": "mine"}')
    assert not config(folder).publish("b", SOCKET, may_be_current=True)
    assert current(folder) == "mine"


def test_a_user_who_goes_back_to_the_default_keeps_it(folder: Path) -> None:
    assert config(folder).publish("default", SOCKET, may_be_current=True)
    (folder / "config.json").write_text("{}")  # `docker context use default`
    assert not config(folder).publish("default", SOCKET, may_be_current=True)
    assert current(folder) is None


def test_the_users_settings_survive(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    kept = tmp_path / "dotfiles.json"
    kept.write_text('{"auths": {"r": {"auth": "x"}}, "unknown": [1, 2.5], "detachKeys": "ctrl-é"}')
    kept.chmod(0o640)
    (folder / "config.json").symlink_to(kept)
    before = json.loads(kept.read_text())
    config(folder).publish("default", SOCKET, may_be_current=True)
    assert json.loads(kept.read_text()) == {**before, "currentContext": "proa"}
    config(folder).withdraw("default", SOCKET)
    assert json.loads(kept.read_text()) == before
    assert (folder / "config.json").is_symlink() and kept.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("content", ["{", "[]", '{"a": "\ud800"', "null", ""])
def test_a_corrupt_config_is_left_alone_and_named(folder: Path, content: str) -> None:
    folder.mkdir()
    data = content.encode("utf-8", "surrogatepass")
    (folder / "config.json").write_bytes(data)
    with pytest.raises(ProaError, match=r"config\.json") as told:
        config(folder).publish("default", SOCKET, may_be_current=True)
    assert told.value.code == "docker-config-corrupt"
    assert (folder / "config.json").read_bytes() == data


def test_what_another_made_is_left_alone(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.sock"
    other.touch()
    config(folder).publish("default", other, may_be_current=False)
    with pytest.raises(ProaError, match="left as it is"):
        config(folder).publish("default", SOCKET, may_be_current=True)
    config(folder).withdraw("default", SOCKET)  # not ours: nothing happens
    other.unlink()  # that installation is gone
    config(folder).publish("default", SOCKET, may_be_current=False)
    (meta,) = folder.glob("contexts/meta/*/meta.json")
    assert json.loads(meta.read_text())["Endpoints"]["docker"]["Host"] == f"unix://{SOCKET}"
    meta.write_text('{"Name": "proa", "Metadata": {}, "Endpoints": {}}')
    with pytest.raises(ProaError, match="left as it is"):
        config(folder).publish("default", SOCKET, may_be_current=True)


def test_a_current_context_of_the_users_survives_the_removal(folder: Path) -> None:
    config(folder).publish("default", SOCKET, may_be_current=True)
    (folder / "config.json").write_text('{"currentContext": "mine"}')
    config(folder).withdraw("default", SOCKET)
    assert current(folder) == "mine"
    assert not list(folder.glob("contexts/meta/*"))
