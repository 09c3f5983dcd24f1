"""An installation's agent replaced by one with a fault (tests/support/faulty_agent.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from proa.machine.sleep.order import Step
from tests.support.caches import REPOSITORY
from tests.support.commands import start
from tests.support.homes import Home, wait_until


@contextmanager
def faulty(home: Home, how: str, step: Step, when: str) -> Iterator[None]:
    """Until the block ends, the agent is one with a fault."""
    _end_agent(home)
    argv = [sys.executable, "-m", "tests.support.faulty_agent", how, step.name, when]
    environ = {**home.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/host:{REPOSITORY}/guest"}
    with start(argv, env=environ, stderr=subprocess.STDOUT, cwd=REPOSITORY) as process:
        wait_until(lambda: _agent_answers(home, process.pid), 60, "the faulty agent answers")
        yield
    wait_until(lambda: home.agent_pid() != process.pid, 20, "the faulty agent ended")


def _agent_answers(home: Home, pid: int) -> bool:
    lock = home.folder / "run/agent.lock"
    return (
        lock.exists() and lock.read_text().strip() == str(pid) and (home.folder / "run/agent.sock").exists()
    )


def _end_agent(home: Home) -> None:
    if (pid := home.agent_pid()) is not None:
        os.kill(pid, 15)
        wait_until(lambda: home.agent_pid() is None, 20, "the agent ended")
