"""Published ports on the host: every address, half-close, and what keeps them right."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.clients import Docker
from tests.support.homes import Home, wait_until
from tests.support.published import fetch, hash_through, is_open, sample
from tests.support.registry import free_port

pytestmark = [pytest.mark.machine, pytest.mark.timeout(240)]

HASHER = ("busybox", "nc", "-ll", "-p", "9000", "-e", "sha256sum")
ECHO = ("busybox", "nc", "-ll", "-p", "9000", "-e", "cat")
LOOPBACK = ("127.0.0.1", "::1")
MIB = 1 << 20


@pytest.fixture
def web(docker: Docker) -> Iterator[int]:
    """The host's port of an nginx called `web`, which answers."""
    port = free_port()
    docker("run", "-d", "--name", "web", "-p", f"{port}:80", "nginx", timeout=120)
    wait_until(lambda: fetch(f"http://127.0.0.1:{port}/"), 30, "nginx answers")
    yield port
    docker("rm", "-f", "web")


def test_every_address_with_half_close(docker: Docker) -> None:
    """127.0.0.1, 0.0.0.0 and ::1; the server sees the client's end of data and answers after it."""
    here, everywhere, six = free_port(), free_port(), free_port()
    published = (f"127.0.0.1:{here}:9000", f"0.0.0.0:{everywhere}:9000", f"[::1]:{six}:9000")
    options = [word for port in published for word in ("-p", port)]
    docker("run", "-d", "--name", "hasher", *options, *HASHER)
    data, expected = sample(7, 4 * MIB)
    wait_until(lambda: hash_through("127.0.0.1", here, b""), 30, "the hasher answers")
    for address, port in (("127.0.0.1", here), ("127.0.0.1", everywhere), ("::1", six)):
        assert hash_through(address, port, data) == expected, f"through {address}"
    assert not is_open("::1", here), "published on 127.0.0.1 only"
    assert not is_open("127.0.0.1", six), "published on ::1 only"
    docker("rm", "-f", "hasher")
    assert not any(is_open(address, port) for address in LOOPBACK for port in (here, everywhere, six))


def test_both_ways_at_once(docker: Docker) -> None:
    port = free_port()
    docker("run", "-d", "--name", "echo", "-p", f"127.0.0.1:{port}:9000", *ECHO)
    data, _ = sample(8, 2 * MIB)
    wait_until(lambda: _echoed(port, b"x") == b"x", 30, "the echo answers")
    assert _echoed(port, data) == data
    docker("rm", "-f", "echo")


def test_all_ports_and_the_table(docker: Docker, home: Home, web: int) -> None:
    (row,) = _ports(home)
    assert (row["machine"], row["container"], row["host_port"], row["container_port"]) == (
        "default",
        "web",
        web,
        80,
    ) or row["host_ip"] == "::", row
    table = home.ok("ports")
    assert "web" in table and str(web) in table


def test_stop_start_and_restart_of_the_container(docker: Docker, web: int) -> None:
    docker("stop", "-t", "2", "web")
    wait_until(lambda: not is_open("127.0.0.1", web), 10, "a stopped container's port is closed")
    docker("start", "web")
    wait_until(lambda: fetch(f"http://127.0.0.1:{web}/"), 30, "it answers after start")
    docker("restart", "-t", "2", "web")
    wait_until(lambda: fetch(f"http://127.0.0.1:{web}/"), 30, "it answers after restart")


def test_the_port_is_bound_when_run_returns(docker: Docker) -> None:
    """`docker run -d -p` and then connecting is what every script does."""
    for _ in range(3):
        port = free_port()
        container = docker("run", "-d", "-p", f"{port}:9000", *HASHER).out
        assert is_open("127.0.0.1", port)
        docker("rm", "-f", container)


def test_a_killed_agent_is_followed_by_one_that_binds_again(docker: Docker, home: Home, web: int) -> None:
    pid = home.agent_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert "web" in docker("ps").out, "any command starts the agent again"
    wait_until(lambda: fetch(f"http://127.0.0.1:{web}/"), 30, "the port answers again")
    assert home.agent_pid() not in (None, pid)


def test_a_taken_port_is_said_and_bound_when_it_is_free(docker: Docker, home: Home) -> None:
    with socket.create_server(("0.0.0.0", 0)) as holder:
        port = holder.getsockname()[1]
        docker("run", "-d", "--name", "late", "-p", f"0.0.0.0:{port}:80", "nginx", timeout=120)
        problem = wait_until(lambda: _problem(home, port), 15, "the problem is listed")
        assert problem["code"] == "port-taken"
        said = " ".join((problem["message"], problem["why"], problem["hint"]))
        assert str(port) in said
        assert str(os.getpid()) in said, "who holds it"
        others = {int(word) for word in re.findall(r"\d+", said)} - {port, os.getpid()}
        free = [other for other in others if 1024 <= other < 65536 and not is_open("127.0.0.1", other)]
        assert free, f"a free one is named: {said}"
        assert "port-taken" in home.ok("ports") or str(os.getpid()) in home.ok("ports")
        assert home.status()["state"] == "running", "a taken port is no trouble of the machine"
    wait_until(lambda: "nginx" in fetch(f"http://127.0.0.1:{port}/"), 30, "it is bound once it is free")
    assert _problem(home, port) is None
    docker("rm", "-f", "late")


def test_a_port_taken_by_another_container_is_the_engines_error(docker: Docker, web: int) -> None:
    refused = docker("run", "-d", "--name", "second", "-p", f"{web}:80", "nginx", status=None)
    assert refused.status == 125
    assert "port is already allocated" in refused.err
    docker("rm", "-f", "second")


def test_a_closed_container_port_refuses(docker: Docker) -> None:
    """Nobody listens in the container: the client is refused or reset, and does not hang."""
    port = free_port()
    docker("run", "-d", "--name", "deaf", "-p", f"127.0.0.1:{port}:81", "busybox", "sleep", "300")
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
        contextlib.suppress(ConnectionResetError),
    ):
        assert connection.recv(1) == b""
    docker("rm", "-f", "deaf")


def _echoed(port: int, data: bytes) -> bytes:
    """Send while receiving: more than all buffers hold goes round only so."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.settimeout(60)
        sent = 0
        while sent < len(data):
            connection.sendall(data[sent : sent + 65536])
            sent += 65536
            if sent > MIB // 2:
                received += connection.recv(65536)
        connection.shutdown(socket.SHUT_WR)
        while block := connection.recv(MIB):
            received += block
    return bytes(received)


def _ports(home: Home) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(home.ok("ports", "--json", timeout=30))
    return [row for row in found if row["host_ip"] != "::"]


def _problem(home: Home, port: int) -> dict[str, Any] | None:
    return next((row["problem"] for row in _ports(home) if row["host_port"] == port), None)
