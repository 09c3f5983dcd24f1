"""Images and containers by the commands that everybody types first."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.clients import Docker
from tests.support.commands import run
from tests.support.homes import Home, wait_until
from tests.support.registry import Registry

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]

# Ends on SIGTERM at once; a plain `sleep` as process 1 would ignore it for ten seconds.
PATIENT = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.2; done")


def test_docker_version_and_info_are_the_guests(docker: Docker) -> None:
    server = json.loads(docker("version", "--format", "{{json .Server}}").out)
    assert server["Os"] == "linux"
    assert docker.straight("info", "--format", "{{.Name}}").out == docker("info", "--format", "{{.Name}}").out


def test_env_points_any_client_at_the_engine(docker: Docker, home: Home) -> None:
    line = 'eval "$(proa env)" && docker version --format "{{.Server.Os}}" && echo "$DOCKER_HOST"'
    folder = str(Path(sys.executable).parent)
    environ = {**docker.environ, "SHELL": "/bin/sh", "PATH": f"{folder}:{docker.environ['PATH']}"}
    shown = run(["sh", "-c", line], env=environ, timeout=60).check()
    assert shown.out.splitlines() == ["linux", f"unix://{docker.socket}"]


def test_pull_nginx(docker: Docker) -> None:
    pulled = docker("pull", "nginx", timeout=120)
    assert "docker.io/library/nginx:latest" in pulled.out
    assert docker.lines("images", "-q", "nginx"), "the image is there"


def test_ps_stop_rm_rmi_by_id(docker: Docker) -> None:
    docker("build", "-t", "my-image", "-", input="FROM busybox\nRUN echo mine > /mine\n", timeout=180)
    docker("tag", "my-image", "my-image:second")
    container = docker("run", "-d", "--name", "my-container", "my-image", *PATIENT).out
    assert len(container) == 64

    row = json.loads(docker("ps", "--no-trunc", "--format", "json").out)
    assert (row["ID"], row["Names"], row["Image"], row["State"]) == (
        container,
        "my-container",
        "my-image",
        "running",
    )
    table = docker("ps").out.splitlines()
    assert table[0].split()[:3] == ["CONTAINER", "ID", "IMAGE"]
    assert container[:12] in table[1]

    docker("stop", container[:12])
    # The engine answers a stop before its list of containers has it.
    wait_until(lambda: docker("ps", "-q").out == "", 20, "the stopped container is no longer listed")
    assert "Exited (0)" in docker("ps", "-a").out
    docker("rm", container[:12])
    assert docker("ps", "-aq").out == ""

    image = docker("images", "-q", "my-image:second").out
    untagged = docker("rmi", "-f", image).out
    assert "my-image:latest" in untagged and "my-image:second" in untagged, "with all its names"
    assert docker("images", "-q", "my-image").out == ""


def test_exit_status_and_errors_are_dockers_own(docker: Docker) -> None:
    assert docker("run", "--rm", "busybox", "sh", "-c", "exit 3", status=None).status == 3
    assert docker("run", "--rm", "busybox", "no-such-program", status=None).status == 127
    missing = docker("rm", "no-such-container", status=None)
    assert missing.status == 1
    assert "No such container: no-such-container" in missing.err


@pytest.mark.long
def test_push_and_pull_again(docker: Docker, registry: Registry) -> None:
    name = f"{registry.address}/x/pushed:1"
    build = "FROM busybox\nRUN echo pushed > /pushed\n"
    docker("build", "-t", name, "-", input=build, timeout=180)
    image = docker("image", "inspect", "--format", "{{.ID}}", name).out
    docker("push", name, timeout=120)
    assert registry.tags("x/pushed") == ("1",)
    docker("rmi", "-f", image)
    assert docker("images", "-q", name).out == ""
    docker("pull", name, timeout=120)
    assert docker("image", "inspect", "--format", "{{.ID}}", name).out == image
    assert docker("run", "--rm", name, "cat", "/pushed").out == "pushed"


def test_a_missing_image_is_said(docker: Docker) -> None:
    missing = docker("pull", "10.0.2.2:1/no/such:1", status=None, timeout=120)
    assert missing.status == 1
    assert "10.0.2.2:1" in missing.err
