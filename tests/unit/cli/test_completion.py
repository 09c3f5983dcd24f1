"""Completion as a real bash asks for it; no agent is started by it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proa.cli.completion import cobra_items, source
from tests.support.homes import PROA, Home

DOCKER = """\
#!/bin/sh
test "$1" = __complete || exit 1
shift
host=$(echo "$DOCKER_HOST" | grep -o '[a-z]*/docker.sock')
printf '%s\\tit was said to docker\\n' "said:$host:$*" | tr ' ' '_'
echo :4
"""
ASK = """
eval "$(proa completion bash)"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_proa_completion proa
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """An installation with two machines and no agent, and a docker that says what it was asked."""
    with Home() as home:
        for name in ("default", "work"):
            (home.folder / "machines" / name).mkdir(parents=True)
            (home.folder / "machines" / name / "machine.toml").touch()
        (home.folder / "machines/.new-x").mkdir()
        docker = home.folder / "bin/docker"
        docker.parent.mkdir()
        docker.write_text(DOCKER)
        docker.chmod(0o755)
        yield home


def _complete(home: Home, *words: str) -> list[str]:
    """What bash offers after `proa WORDS`, the last of which is being typed."""
    path = f"{home.folder}/bin:{Path(PROA).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK, "bash", "proa", *words],
        env={**home.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert not done.stderr, done.stderr
    assert home.agent_pid() is None, "a TAB starts no agent"
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["sta"], ["start", "status"]),
        (["docto"], ["doctor"]),
        (["start", ""], ["default", "work"]),
        (["status", "w"], ["work"]),
        (["status", "--j"], ["--json"]),
        (["logs", "--source", "co"], ["console", "containerd"]),
        (["reset", "--k"], ["--keep-data"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["nonsense", "x"], []),
    ],
)
def test_verbs_options_and_machines(home: Home, words: list[str], offered: list[str]) -> None:
    assert _complete(home, *words) == offered


def test_docker_completes_its_own_words(home: Home) -> None:
    assert _complete(home, "docker", "run", "--rm", "-h", "x") == ["said:default/docker.sock:run_--rm_-h_x"]
    other = _complete(home, "docker", "--machine", "work", "ps", "-")
    assert other == ["said:work/docker.sock:ps_-"]
    assert _complete(home, "docker", "--machine", "") == ["default", "work"]


def test_what_docker_says_is_read() -> None:
    assert [item.value for item in cobra_items("a\tb\nc\n:4\n", "")] == ["a", "c"]
    assert [item.help for item in cobra_items("a\tb\nc\n:4\n", "")] == ["b", None]
    assert [item.type for item in cobra_items(":0\n", "x")] == ["file"]
    assert cobra_items(":4\n", "x") == []
    for broken in ("", "error\n", ":x\n", "\x1b[31m\n:4\n"):
        assert cobra_items(broken, "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_every_shell(home: Home, shell: str) -> None:
    told = home.ok("completion", shell)
    assert source(shell) in told and f"_PROA_COMPLETE={shell}_complete" in told
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=told, text=True, check=True)
    elif (program := shutil.which(shell)) is not None:
        subprocess.run([program, "-n"], input=told, text=True, check=True)


@pytest.mark.parametrize("words", ["proa st", "proa start ", "proa docker ru"])
def test_a_tab_imports_little(home: Home, words: str) -> None:
    """150 ms is the budget: what costs most is not imported (a clock would tell of the machine's load)."""
    script = (
        "import sys; from proa.cli.entry import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    environ = {**home.environ, "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environ, "_PROA_COMPLETE": "bash_complete", "PATH": f"{home.folder}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    loaded = set(done.stderr.split())
    assert done.stdout and not {"asyncio", "aiohttp", "http.client", "rich", "ssl"} & loaded
