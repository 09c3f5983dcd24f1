"""The verbs against a real agent that has no guest yet: words, exit statuses, shapes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.homes import Home


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with Home() as home:
        yield home


def test_every_verb_has_help_with_an_example(home: Home) -> None:
    listed = home.ok("--help")
    verbs = [
        "start",
        "stop",
        "restart",
        "status",
        "list",
        "create",
        "delete",
        "docker",
        "shell",
        "env",
        "ports",
        "logs",
        "version",
    ]
    for verb in verbs:
        assert f"  {verb} " in listed
        for flag in ("--help", "-h"):
            told = home.ok(verb, flag)
            assert "Example:" in told and f"proa {verb}" in told, told


def test_a_machine_that_is_not_there_is_absent(home: Home) -> None:
    status = json.loads(home.ok("status", "--json"))
    assert set(status) == {
        "name", "state", "problem", "driver", "accelerator", "engine", "started_with", "start_seconds",
        "cpus", "memory", "disk", "pid", "asleep_since", "woken_by",
    }  # fmt: skip
    assert (status["name"], status["state"], status["problem"]) == ("default", "absent", None)
    assert set(status["engine"]) == {"version", "socket"}
    assert "proa start" in home.ok("status")


def test_looking_does_not_fail_where_no_agent_can_be(home: Home) -> None:
    file = home.folder / "a-file"
    file.touch()
    status = json.loads(home.ok("status", "--json", PROA_HOME=str(file / "x")))
    problem = status["problem"]
    assert (status["state"], problem["code"], problem["layer"]) == ("broken", "folder-not-writable", "agent")
    told = home.ok("status", PROA_HOME=str(file / "x"))
    assert told.splitlines()[:2] == ["machine  default", "state    broken"]
    assert "folder-not-writable, layer agent" in told and problem["hint"] in told
    assert home.proa("status", "no/name", PROA_HOME=str(file / "x")).status == 2


def test_a_machine_is_made_listed_shown_and_deleted(home: Home) -> None:
    home.ok("create", "work", "--cpus", "1", "--memory", "1GiB", "--disk", "5GiB")
    (listed,) = json.loads(home.ok("list", "--json"))
    assert (listed["name"], listed["state"], listed["memory"], listed["disk"]) == (
        "work",
        "stopped",
        1 << 30,
        5 << 30,
    )
    assert "work  stopped" in home.ok("list")
    assert json.loads(home.ok("ports", "--json", PROA_MACHINE="work")) == []
    stopped = home.proa("docker", "--machine", "work", "ps")
    assert stopped.status != 0 and "proa start work" in stopped.err
    again = home.proa("create", "work")
    assert (again.status, "[machine-exists]" in again.err) == (1, True)
    home.ok("delete", "work", "--yes")
    assert json.loads(home.ok("list", "--json")) == []
    assert "no machines yet" in home.ok("list")


def test_env_prints_a_line_for_the_shell_at_hand(home: Home) -> None:
    socket = home.folder / "run/default/docker.sock"
    assert home.ok("env", SHELL="/bin/bash") == f"export DOCKER_HOST=unix://{socket}\n"
    assert home.ok("env", SHELL="/usr/bin/fish") == f"set -gx DOCKER_HOST unix://{socket}\n"
    assert home.ok("env", "--unset", SHELL="/bin/sh") == "unset DOCKER_HOST\n"


def test_the_agents_log_is_shown(home: Home) -> None:
    home.ok("create", "logged")
    assert "proa.agent: agent" in home.ok("logs", "logged", "--source", "agent", "-n", "50")
    refused = home.proa("logs", "logged", "--source", "engine")
    assert (refused.status, "[machine-not-running]" in refused.err) == (1, True)
    home.ok("delete", "logged", "--yes")


def test_wrong_usage_is_two_and_a_word(home: Home) -> None:
    for argv, word in (
        (["strat"], "start"),
        (["start", "--fast"], "--fast"),
        (["status", "a", "b"], "argument"),
        (["logs", "--source", "moon"], "moon"),
        (["create"], "NAME"),
        (["shell", "a", "b"], "--"),
    ):
        result = home.proa(*argv)
        lines = result.err.strip().splitlines()
        assert (result.status, len(lines) <= 3) == (2, True), result
        assert lines[0].startswith("proa: ") and word in result.err, result


def test_debug_shows_where_an_error_comes_from(home: Home) -> None:
    assert "Traceback" in home.proa("--debug", "stop", "nobody").err
    assert "Traceback" not in home.proa("stop", "nobody").err


def test_version_names_all_parts(home: Home) -> None:
    told = home.ok("version")
    assert [line.split()[0] for line in told.splitlines()] == ["proa", "python", "agent", "engine"]
