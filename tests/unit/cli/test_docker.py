"""`proa docker`: which program it becomes, with what, and how little it imports."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proa.cli.docker import choose, plugin_missing, runs_here, split
from proa.model.errors import ProaError

ECHO = '#!/bin/sh\necho "$0|$*|$DOCKER_HOST|$DOCKER_CONTEXT"\nexit 17\n'


def program(path: Path, text: str = ECHO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home whose agent's engine socket is there."""
    folder = tmp_path / "h/run/default"
    folder.mkdir(parents=True, mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "docker.sock"))
        listener.listen()
        yield tmp_path / "h"


def run(home: Path, *argv: str, path: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "proa.cli.entry", *argv],
        env={"PATH": path, "PROA_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path), **environ},
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
    )


def test_it_becomes_docker_with_the_engines_socket(home: Path, tmp_path: Path) -> None:
    docker = program(tmp_path / "bin/docker")
    done = run(
        home, "docker", "ps", "-a", path=str(tmp_path / "bin"), DOCKER_CONTEXT="other", DOCKER_HOST="tcp://x"
    )
    assert done.returncode == 17
    assert done.stdout.strip() == f"{docker}|ps -a|unix://{home}/run/default/docker.sock|"


def test_it_imports_little(home: Path, tmp_path: Path) -> None:
    program(tmp_path / "bin/docker")
    done = run(home, "docker", "ps", path=str(tmp_path / "bin"))
    imported = {
        line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")
    }
    assert "proa.cli.docker" in imported
    assert not imported & {
        "click",
        "msgspec",
        "asyncio",
        "http.client",
        "dataclasses",
        "typing",
        "rich",
        "platformdirs",
    }


def test_a_docker_of_the_current_folder_is_never_run(home: Path, tmp_path: Path) -> None:
    program(home / "docker", "#!/bin/sh\necho evil\n")
    good = program(tmp_path / "bin/docker")
    for path in (f".{os.pathsep}{tmp_path / 'bin'}", f"{os.pathsep}{tmp_path / 'bin'}"):
        assert run(home, "docker", "ps", path=path).stdout.startswith(str(good))


def test_our_machine_option_is_taken_and_dockers_own_are_not() -> None:
    assert split(["--machine", "work", "-m", "x"], {}) == ("work", ["-m", "x"])
    assert split(["--machine=work", "ps", "--machine", "x"], {}) == ("work", ["ps", "--machine", "x"])
    assert split(["ps"], {"PROA_MACHINE": "other"}) == ("other", ["ps"])
    assert split([], {}) == ("default", [])
    with pytest.raises(ProaError):
        split(["--machine", "../up", "ps"], {})


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The CLI that came with an image."""
    cli = tmp_path / "home/images/abc/cli"
    for name in ("docker", "cli-plugins/docker-compose", "cli-plugins/docker-buildx"):
        program(cli / name)
    return cli


def test_the_images_plugins_serve_where_the_hosts_docker_has_none(image: Path, tmp_path: Path) -> None:
    environ = {
        "PATH": str(tmp_path / "bin"),
        "PROA_HOME": str(tmp_path / "home"),
        "DOCKER_CONFIG": str(tmp_path / "c"),
    }
    docker = str(program(tmp_path / "bin/docker"))
    assert choose(["ps"], environ) == (docker, ["ps"])
    if not any(
        Path(folder, "docker-compose").exists()
        for folder in (
            "/usr/libexec/docker/cli-plugins",
            "/usr/lib/docker/cli-plugins",
            "/usr/local/lib/docker/cli-plugins",
        )
    ):
        assert choose(["compose", "up"], environ) == (str(image / "cli-plugins/docker-compose"), ["up"])
        assert choose(["build", "."], environ) == (str(image / "cli-plugins/docker-buildx"), ["build", "."])
        assert choose(["build", "."], {**environ, "DOCKER_BUILDKIT": "0"}) == (docker, ["build", "."])
    program(tmp_path / "c/cli-plugins/docker-compose")
    assert choose(["compose", "up"], environ) == (docker, ["compose", "up"]), (
        "the user's own plugin comes first"
    )


def test_without_a_docker_the_images_is_used_and_without_that_the_guests(image: Path, tmp_path: Path) -> None:
    environ = {"PATH": "/nowhere", "PROA_HOME": str(tmp_path / "home")}
    assert choose(["ps"], environ) == (str(image / "docker"), ["ps"])
    assert choose(["ps"], {**environ, "PROA_HOME": str(tmp_path / "empty")}) is None
    assert choose(["ps"], {**environ, "PROA_DOCKER_CLI": "guest"}) is None


def test_what_is_built_for_another_processor_is_left_to_the_guest(image: Path, tmp_path: Path) -> None:
    own = Path(sys.executable).resolve().read_bytes()[:64]
    (image / "docker").write_bytes(own)
    assert runs_here(str(image / "docker"))
    (image / "docker").write_bytes(own[:18] + (8).to_bytes(2, "little") + own[20:])  # MIPS
    assert choose(["ps"], {"PATH": "/nowhere", "PROA_HOME": str(tmp_path / "home")}) is None


def test_plugins_that_the_host_has_not_are_the_guests(tmp_path: Path) -> None:
    docker = str(program(tmp_path / "bin/docker"))
    environ = {
        "PATH": str(tmp_path / "bin"),
        "PROA_HOME": str(tmp_path),
        "DOCKER_CONFIG": str(tmp_path / "c"),
    }
    if plugin_missing("compose", "docker-compose", environ):
        assert choose(["compose", "up"], environ) is None
    assert choose(["ps"], environ) == (docker, ["ps"])
