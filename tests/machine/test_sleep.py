"""Memory images: a suspended machine wakes for whoever needs it; to a user a warm stop is a stop."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import IO

import pytest

from tests.support.clients import Docker
from tests.support.commands import run, start
from tests.support.homes import PROA, Home, wait_until
from tests.support.published import fetch
from tests.support.registry import free_port

pytestmark = [pytest.mark.machine, pytest.mark.timeout(600)]

COUNTER = "i=0; while :; do i=$((i+1)); echo $i > /dev/shm/m; mv /dev/shm/m /dev/shm/n; sleep 0.1; done"
AT_ONCE = 20


@contextmanager
def outside() -> Iterator[tuple[socket.socket, int]]:
    """A listener of the host's, which guests reach as 10.0.2.2."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        yield listener, listener.getsockname()[1]


def count(docker: Docker) -> int:
    return int(docker("exec", "counter", "cat", "/dev/shm/n").out)


def started_at(docker: Docker) -> dict[str, str]:
    shown = docker("inspect", *docker.lines("ps", "-q"), "-f", "{{.Name}}={{.State.StartedAt}}").out
    return dict(line.split("=") for line in shown.splitlines())


def link_key(home: Home) -> bytes:
    return (home.folder / "run/default/link.key").read_bytes()


def nothing_is_left(home: Home) -> None:
    assert home.hypervisors() == []
    left = [path.name for path in (home.folder / "machines/default").glob("memory.*")]
    assert left == ["memory.ready"], "one image, and no rest of another"


def test_a_suspended_machine_wakes_with_all_it_had(docker: Docker, home: Home) -> None:
    port = free_port()
    docker("network", "create", "net")
    docker("run", "-d", "--name", "counter", "busybox", "sh", "-c", COUNTER)
    docker("run", "-d", "--name", "web", "-p", f"{port}:80", "nginx", timeout=120)
    docker(
        "run", "-d", "--name", "server", "--network", "net", "busybox", "nc", "-ll", "-p", "9", "-e", "cat"
    )
    docker("run", "-d", "--name", "inside", "--network", "net", "-i", "busybox", "nc", "server", "9")
    wait_until(lambda: fetch(f"http://127.0.0.1:{port}/"), 60, "nginx answers")
    with outside() as (listener, far):
        docker("run", "-d", "--name", "outside", "busybox", "nc", "10.0.2.2", str(far))
        peer, _ = listener.accept()
        before, processes, key = count(docker), started_at(docker), link_key(home)
        home.ok("suspend")
        asleep = home.status()
        assert (asleep["state"], asleep["pid"], asleep["problem"]) == ("suspended", None, None)
        assert abs(time.time() - asleep["asleep_since"]) < 120
        nothing_is_left(home)
        home.ok("suspend")  # it sleeps already, which is what was asked for

        assert set(docker.lines("ps", "--format", "{{.Names}}")) >= {"counter", "web", "server", "inside"}
        awake = home.status()
        assert (awake["state"], awake["started_with"]) == ("running", "memory-image")
        assert awake["woken_by"] == "a docker request"
        assert count(docker) > before, "it counts on from where it was"
        wait_until(lambda: "outside" in docker("ps", "-a", "-f", "status=exited").out, 30, "its reader ended")
        peer.close()
    assert {name: at for name, at in processes.items() if name != "/outside"} == started_at(docker)
    table = docker("exec", "inside", "cat", "/proc/net/tcp").out
    assert ":0009 01 " in table, f"containers are still connected to each other: {table}"
    assert link_key(home) != key, "the link's secret is another"
    clock = float(home.ok("shell", "--", "date", "+%s.%N"))
    assert abs(clock - time.time()) < 5


def test_it_sleeps_on_without_an_agent_and_many_visitors_wake_it_once(docker: Docker, home: Home) -> None:
    port = free_port()
    docker("run", "-d", "--name", "page", "-p", f"{port}:80", "nginx", timeout=120)
    wait_until(lambda: fetch(f"http://127.0.0.1:{port}/"), 60, "nginx answers")
    home.ok("suspend")
    agent = home.agent_pid()
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    wait_until(lambda: home.agent_pid() is None, 10, "the agent is gone")
    for path in sorted((home.folder / "run/default").iterdir()):
        path.unlink()  # as after a reboot of the host
    assert home.status()["state"] == "suspended"
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        pages = list(pool.map(lambda _: _page(port), range(AT_ONCE)))
    assert all("nginx" in page for page in pages), "nobody was sent away"
    assert len(home.hypervisors()) == 1
    assert home.status()["woken_by"] == "a connection to a published port"
    assert home.folder.joinpath("logs/agent.log").read_text().count("woken: ") >= 1


def _page(port: int) -> str:
    return run(["curl", "-sS", "--max-time", "60", f"http://127.0.0.1:{port}/"], timeout=90).check().out


def test_who_only_listens_to_events_does_not_wake_it_and_hears_on(docker: Docker, home: Home) -> None:
    with docker.streaming(
        "events", "--filter", "event=create", "--format", "{{.Actor.Attributes.name}}"
    ) as heard:
        assert heard.stdout is not None
        wait_until(lambda: _creates(docker, "early") and select([heard.stdout], [], [], 1)[0], 60, "it hears")
        first = heard.stdout.readline()
        assert first == b"early\n"
        home.ok("suspend")
        time.sleep(3)  # an IDE whose stream ended would have asked again by now
        assert home.status()["state"] == "suspended"
        docker("create", "--name", "late", "busybox", "true")
        assert _next_but(heard.stdout, first) == b"late\n"


def _creates(docker: Docker, name: str) -> bool:
    docker("rm", "-f", name, status=None)
    return docker("create", "--name", name, "busybox", "true").status == 0


def _next_but(stream: IO[bytes], passed_over: bytes) -> bytes:
    return next(line for line in iter(stream.readline, b"") if line != passed_over)


@pytest.mark.long
def test_a_suspend_during_a_build_ends_its_client_with_an_error(
    docker: Docker, home: Home, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN sleep 614\n")
    with docker.streaming("build", "--no-cache", str(tmp_path)) as build:
        wait_until(
            lambda: home.proa("shell", "--", "pgrep", "-f", "sleep 614").status == 0,
            240,
            "the build is at it",
        )
        home.ok("suspend")
        wait_until(lambda: build.poll() is not None, 60, "the build's client ended")
        assert build.returncode != 0
    docker("run", "--rm", "busybox", "true")
    assert home.status()["state"] == "running"


@pytest.mark.long
def test_a_machine_that_nobody_uses_is_suspended_by_itself(docker: Docker, home: Home) -> None:
    docker.sweep()
    home.ok("config", "set", "idle.after", "5s")
    try:
        with docker.streaming("events"):  # who only listens is no use
            wait_until(lambda: home.status()["state"] == "suspended", 120, "it is suspended")
        docker("ps")
        assert home.status()["woken_by"] == "a docker request"
        with start([PROA, "shell", "--", "sleep", "30"], env=home.environ) as shell:
            while shell.poll() is None:
                assert home.status()["state"] == "running", "a shell is use"
                time.sleep(0.5)
        wait_until(lambda: home.status()["state"] == "suspended", 120, "it is suspended again")
        docker("run", "-d", "--name", "worker", "busybox", "sleep", "1000")
        time.sleep(30)
        assert home.status()["state"] == "running", "a container runs"
    finally:
        home.ok("config", "unset", "idle.after")
        docker.sweep()


POLICIES = {
    "always": ("--restart", "always"),
    "unless": ("--restart", "unless-stopped"),
    "unless-by-hand": ("--restart", "unless-stopped"),
    "always-by-hand": ("--restart", "always"),
    "failed": ("--restart", "on-failure"),
    "none": (),
}


def states(docker: Docker) -> dict[str, object]:
    """What a user sees of all containers. What may differ: addresses, and times."""
    found = json.loads(docker("inspect", *docker.lines("ps", "-aq")).out)
    return {
        one["Name"]: (
            one["State"]["Status"],
            one["State"]["ExitCode"],
            one["RestartCount"],
            one["HostConfig"]["RestartPolicy"]["Name"],
        )
        for one in found
    }


@pytest.mark.long
def test_after_a_warm_stop_all_is_as_after_a_cold_one(docker: Docker, home: Home) -> None:
    docker.sweep()
    for name, options in POLICIES.items():
        docker("run", "-d", "--name", name, *options, "busybox", "sleep", "100000")
    docker("stop", "-t", "0", "unless-by-hand", "always-by-hand")
    docker("create", "--name", "created", "--restart", "always", "busybox", "true")
    docker("run", "--name", "done", "busybox", "sh", "-c", "exit 3", status=3)
    docker("run", "-d", "--name", "paused", "busybox", "sleep", "100000")
    docker("pause", "paused")

    home.ok("stop")
    assert home.status()["state"] == "stopped"
    nothing_is_left(home)
    refused = docker("ps", status=None)
    assert refused.status == 1 and "proa start" in refused.err, "a stopped machine does not wake"
    home.ok("start")
    assert home.status()["started_with"] == "memory-image"
    warm = states(docker)
    assert warm["/unless"] == ("running", 0, 0, "unless-stopped")
    assert warm["/none"] == ("exited", 137, 0, "no")

    home.ok("stop", "--cold")
    home.ok("start")
    assert home.status()["started_with"] == "cold"
    cold = states(docker)
    assert warm == cold
    assert not Path(home.folder / "machines/default/memory.ready").exists()
