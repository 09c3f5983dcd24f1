"""`proa status` without the verb's own imports: what it prints, and when it leaves it to the verb."""

from __future__ import annotations

import json
import os
import socket
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

import msgspec
import pytest

from proa.agent.choice import docker_choice
from proa.agent.client import AgentClient
from proa.cli import quick
from proa.model.api import DockerChoice
from proa.model.errors import ProaError
from proa.system.docker_settings import docker_folder
from proa.system.paths import Places
from tests.support.homes import PROA, Home


@pytest.fixture
def home() -> Iterator[Home]:
    with Home() as home:
        yield home


def test_it_says_what_the_verb_says(home: Home) -> None:
    home.ok("create", "default")
    told = quick.status([], home.environ)
    assert told is not None and told.splitlines()[0] == "machine  default" and "stopped" in told
    # A flag before the name is the verb's own business.
    assert home.ok("status", "--", "default") == told + "\n"
    as_json = quick.status(["--json"], home.environ)
    assert as_json is not None and json.loads(as_json) == json.loads(
        home.ok("status", "--json", "--", "default")
    )
    assert quick.status(["nothing"], home.environ) == "nothing: absent\nmake and start it: proa start nothing"


@pytest.mark.parametrize("argv", [["status"], ["status", "--", "default"], ["status", "--help"]])
def test_a_reader_that_has_left_is_no_error_to_speak_of(home: Home, argv: list[str]) -> None:
    home.ok("create", "default")
    near, far = os.pipe()
    os.close(near)  # as `head` does when it has its lines
    with os.fdopen(far, "wb") as nobody:
        done = subprocess.run(
            [PROA, *argv], env=home.environ, stdout=nobody, stderr=subprocess.PIPE, timeout=30, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("argv", [["--help"], ["a", "b"], ["../x"], ["--json", "--json", "a"]])
def test_what_is_unusual_is_left_to_the_verb(home: Home, argv: list[str]) -> None:
    home.ok("version")
    assert quick.status(argv, home.environ) is None


def test_without_an_agent_or_with_another_version_it_is_left_to_the_verb(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert quick.status([], home.environ) is None
    home.ok("version")
    assert quick.status([], home.environ) is not None
    monkeypatch.setattr(quick, "__version__", "0.0.9")
    assert quick.status([], home.environ) is None


def test_it_imports_little(home: Home) -> None:
    """150 ms is the budget (a clock would tell of the machine's load)."""
    home.ok("version")
    script = (
        "import sys; from proa.cli.entry import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "status"], env=home.environ, capture_output=True, text=True, check=True
    )
    assert "absent" in done.stdout
    assert not {"click", "msgspec", "pathlib", "re", "typing", "http.client"} & set(done.stderr.split())


def test_a_start_is_asked_for_once_and_before_the_verb_is_there(home: Home) -> None:
    assert quick.begin_start([], home.environ) is None, "no agent yet"
    home.ok("create", "default")
    failed = home.proa("start")
    assert failed.status == 1 and "image-missing" in failed.err, failed
    told = [json.loads(line) for line in home.ok("events", "--json").splitlines()]
    assert [event["kind"] for event in told].count("failed") == 1, told
    asked = quick.begin_start(["default"], home.environ)
    assert asked is not None
    with socket.socket(fileno=asked) as connection:
        client = AgentClient(Places.current(home.environ))
        with pytest.raises(ProaError) as caught:
            client.start("default", lambda step: None, connection)
    assert caught.value.code == "image-missing"


def test_an_answer_of_another_version_is_not_taken(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.ok("create", "default")
    asked = quick.begin_start([], home.environ)
    assert asked is not None
    monkeypatch.setattr("proa.agent.client.__version__", "0.0.9")
    said: list[str] = []
    with pytest.raises(ProaError) as caught:
        client = AgentClient(Places.current(home.environ))
        client.start("default", lambda step: said.append(step.message), socket.socket(fileno=asked))
    assert caught.value.code == "image-missing", "it asked again by itself"


def test_an_unusual_start_is_left_to_the_verb(home: Home) -> None:
    home.ok("version")
    for argv in (["--help"], ["a", "b"], ["../x"], ["-h"], [""]):
        assert quick.begin_start(argv, home.environ) is None, argv


@pytest.mark.parametrize("folder", ["/home/me/.docker", '/a b/"c"\\d', "relative", "/\udcff/ä\n", ""])
@pytest.mark.parametrize("chosen", [{}, {"DOCKER_HOST": "tcp://x"}, {"PROA_HOME": "/p"}])
def test_the_agent_reads_what_a_shell_has_chosen(folder: str, chosen: dict[str, str]) -> None:
    told = docker_choice({"DOCKER_CONFIG": folder, **chosen})
    assert told.isascii() and not set(told) - set(string.ascii_letters + string.digits + "%")
    choice = msgspec.json.decode(unquote_to_bytes(told), type=DockerChoice)
    wanted = docker_folder({"DOCKER_CONFIG": folder}).absolute()
    assert Path(choice.config) == Path(str(wanted).encode("utf-8", "replace").decode())
    assert choice.may_be_current == (not chosen)
