"""A compose project of three services."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.clients import Docker
from tests.support.commands import run
from tests.support.homes import wait_until
from tests.support.registry import free_port

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]

PROJECT = """\
services:
  web:
    image: nginx
    ports: ["127.0.0.1:{port}:80"]
    depends_on: [store]
  store:
    image: redis
    volumes: ["data:/data"]
  visitor:
    image: busybox
    depends_on: [web, store]
    stop_grace_period: 1s
    command:
      - sh
      - -c
      - |
        until wget -qO /page http://web/; do sleep 0.2; done
        grep -c 'Welcome to nginx' /page
        until (echo PING; sleep 1) | nc store 6379 | grep PONG; do sleep 0.2; done
        echo visited
        sleep 300
volumes:
  data:
"""


def test_three_services(docker: Docker, tmp_path: Path) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}/"
    (tmp_path / "compose.yaml").write_text(PROJECT.format(port=port))

    def compose(*words: str, timeout: float = 120) -> str:
        return docker("compose", "-p", "three", *words, cwd=tmp_path, timeout=timeout).out

    compose("up", "-d", timeout=200)
    services = [json.loads(line) for line in compose("ps", "--format", "json").splitlines()]
    assert {service["Service"]: service["State"] for service in services} == {
        "web": "running",
        "store": "running",
        "visitor": "running",
    }
    page = run(["curl", "-sf", "--retry", "10", "--retry-all-errors", address], timeout=60)
    assert "Welcome to nginx" in page.check().out
    # Services find each other by name on the project's own network.
    wait_until(lambda: "visited" in compose("logs", "visitor"), 60, "the visitor saw the other two")
    assert "+PONG" in compose("logs", "visitor")

    compose("stop", "-t", "1", "web")
    refused = run(["curl", "-s", "--max-time", "10", address], timeout=20)
    assert refused.status != 0, "a stopped service's port is closed"
    compose("start", "web")
    run(["curl", "-sf", "--retry", "10", "--retry-all-errors", address], timeout=60).check()

    compose("down", "-v", "-t", "1")
    assert docker("ps", "-aq").out == ""
    assert "three_data" not in docker("volume", "ls", "-q").out
    assert "three_default" not in docker("network", "ls", "--format", "{{.Name}}").out
