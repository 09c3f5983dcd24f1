from __future__ import annotations

import pytest

from proa.cli import doctor_judge as judge
from proa.cli.doctor_judge import SocketFacts, Tool
from proa.model.api import AgentInfo
from proa.model.doctor import CheckState
from proa.model.errors import ProaError
from proa.model.sizes import GIB, MIB

OK, WARN, FAIL, SKIP = CheckState.OK, CheckState.WARN, CheckState.FAIL, CheckState.SKIP


def test_an_agent_that_is_not_there_says_why() -> None:
    verdict = judge.agent(None, ProaError("x", "the agent did not start", why="disk full", hint="do this"))
    assert (verdict.state, verdict.hint) == (FAIL, "do this")
    assert "disk full" in verdict.message
    assert judge.agent(None, None).state is FAIL


def test_an_agent_shows_its_age_and_size() -> None:
    info = AgentInfo(version="1", api=1, pid=7, machines=0, uptime=7300.0, memory=40 * MIB)
    verdict = judge.agent(info, None)
    assert verdict.state is OK
    assert "pid 7" in verdict.message and "2 h" in verdict.message and "40 MiB" in verdict.message
    large = AgentInfo(version="1", api=1, pid=7, machines=0, memory=GIB)
    assert judge.agent(large, None).state is WARN


@pytest.mark.parametrize(("free", "state"), [(0, FAIL), (255 * MIB, FAIL), (GIB, WARN), (50 * GIB, OK)])
def test_disk(free: int, state: CheckState) -> None:
    verdict = judge.disk(free, "/x")
    assert verdict.state is state and "/x" in verdict.message


@pytest.mark.parametrize(
    ("total", "available", "wanted", "running", "state"),
    [
        (8, 6, 2, False, OK),
        (8, 1, 2, False, WARN),
        (8, 1, 2, True, OK),  # it has its memory already
        (1, 1, 2, False, FAIL),
        (8, None, 2, False, OK),
        (8, 1, 0, False, OK),
    ],
)
def test_memory(total: int, available: int | None, wanted: int, running: bool, state: CheckState) -> None:
    free = None if available is None else available * GIB
    assert judge.memory(total * GIB, free, wanted * GIB, running=running).state is state


WELL = SocketFacts("/r/docker.sock", 20, 1000, 0o700, 1000, 0o600, is_socket=True, answers=True)


@pytest.mark.parametrize(
    ("facts", "state", "word"),
    [
        (WELL, OK, "private"),
        (SocketFacts("/r/docker.sock", 104), FAIL, "104"),
        (SocketFacts("/r/docker.sock", 20, 0, 0o700), FAIL, "another user"),
        (SocketFacts("/r/docker.sock", 20, 1000, 0o755), FAIL, "755"),
        (SocketFacts("/r/docker.sock", 20, 1000, 0o700), FAIL, "not there"),
        (SocketFacts("/r/docker.sock", 20, 1000, 0o700, 1000, 0o600), FAIL, "not a socket"),
        (SocketFacts("/r/docker.sock", 20, 1000, 0o700, 5, 0o600, True, True), FAIL, "another user"),
        (SocketFacts("/r/docker.sock", 20, 1000, 0o700, 1000, 0o666, True, True), FAIL, "666"),
        (SocketFacts("/r/docker.sock", 20, 1000, 0o700, 1000, 0o600, True, False), FAIL, "nobody answers"),
    ],
)
def test_socket(facts: SocketFacts, state: CheckState, word: str) -> None:
    verdict = judge.socket(facts, 1000, machine_exists=True)
    assert verdict.state is state and word in verdict.message


def test_a_socket_that_is_not_made_yet_is_no_failure() -> None:
    facts = SocketFacts("/r/docker.sock", 20)
    assert judge.socket(facts, 1000, machine_exists=False).state is SKIP


def test_docker_cli_and_plugins() -> None:
    host = Tool("docker", "/usr/bin/docker", False, "28.2")
    ours = Tool("compose", "/i/cli/docker-compose", True, "2.26")
    dead = Tool("buildx", "/usr/lib/docker-buildx", False, "")
    assert judge.docker_cli(None).state is WARN
    assert judge.docker_cli(host).state is OK and "28.2" in judge.docker_cli(host).message
    assert judge.docker_cli(Tool("docker", "/x", False, "")).state is FAIL
    assert judge.plugins([ours], []).state is OK and "guest image" in judge.plugins([ours], []).message
    assert judge.plugins([ours], ["buildx"]).state is WARN
    assert judge.plugins([ours, dead], []).state is WARN


SOCKETS = {"default": "/r/default/docker.sock", "work": "/r/second/docker.sock"}


@pytest.mark.parametrize(
    ("environ", "current", "state", "word"),
    [
        ({}, "", OK, "own default"),
        ({}, "default", OK, "own default"),
        ({}, "proa", OK, "'default'"),
        ({}, "proa-work", OK, "'work'"),
        ({}, "elsewhere", WARN, "elsewhere"),
        ({"DOCKER_CONTEXT": "other"}, "proa", WARN, "DOCKER_CONTEXT"),
        ({"DOCKER_HOST": "unix:///r/second/docker.sock"}, "", OK, "'work'"),
        ({"DOCKER_HOST": "tcp://u:canary@h:1"}, "proa", WARN, "tcp://h:1"),
        ({"DOCKER_HOST": "unix:///x", "DOCKER_TLS_VERIFY": "1"}, "", WARN, "TLS"),
    ],
)
def test_context(environ: dict[str, str], current: str, state: CheckState, word: str) -> None:
    verdict = judge.context(environ, current, SOCKETS)
    assert verdict.state is state and word in verdict.message
    assert "canary" not in verdict.message


def test_leftovers_are_counted() -> None:
    assert judge.leftovers([]).state is OK
    assert "2 more" in judge.leftovers(["a", "b", "c"]).message
