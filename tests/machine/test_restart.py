"""What outlives `proa restart`: volumes, images, containers that ask for it, and their ports."""

from __future__ import annotations

import pytest

from tests.support.clients import Docker
from tests.support.homes import Home, wait_until
from tests.support.published import fetch
from tests.support.registry import free_port

pytestmark = [pytest.mark.machine, pytest.mark.timeout(400)]


def test_a_restart_keeps_what_must_last(docker: Docker, home: Home) -> None:
    port = free_port()
    docker("run", "--rm", "-v", "kept:/data", "busybox", "sh", "-c", "echo before > /data/file")
    docker("run", "-d", "--name", "always", "--restart", "always", "-p", f"{port}:80", "nginx", timeout=120)
    docker("run", "-d", "--name", "once", "busybox", "sleep", "1000")
    docker("run", "--name", "writer", "busybox", "sh", "-c", "echo layer > /layer")
    images = sorted(docker.lines("images", "-q", "--no-trunc"))
    before = home.status()

    home.ok("restart")

    after = home.status()
    assert after["state"] == "running"
    assert after["pid"] != before["pid"], "the machine itself was restarted"
    assert docker("run", "--rm", "-v", "kept:/data", "busybox", "cat", "/data/file").out == "before"
    assert sorted(docker.lines("images", "-q", "--no-trunc")) == images
    running = docker.lines("ps", "--format", "{{.Names}}")
    assert "always" in running and "once" not in running, "as their restart policies say"
    wait_until(lambda: fetch(f"http://localhost:{port}/"), 60, "its published port answers again")
    assert docker("cp", "writer:/layer", "-").raw.find(b"layer\n") > 0


def test_the_socket_of_a_stopped_machine_says_how_to_start_it(docker: Docker, home: Home) -> None:
    home.ok("stop")
    for client in (docker, docker.straight):
        refused = client("ps", status=None)
        assert refused.status == 1
        assert "proa start" in refused.err
    home.ok("start")
    docker("ps")
