"""Starting the agent where it is not there, and replacing one of another version."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING

from proa.model.errors import ProaError
from proa.system.files import tail
from proa.system.locks import is_held
from proa.system.paths import Places
from proa.system.processes import ProcessIdentity, identify, kill, spawn_detached, wait_until_gone
from proa.system.sockets import answers

if TYPE_CHECKING:
    from proa.agent.client import AgentClient  # a command that hastens an agent has not imported it yet

START_TIMEOUT = 30.0  # seconds until a new agent answers; it adopts machines first
END_TIMEOUT = 30.0
POLL = 0.02


def hasten(places: Places) -> ProcessIdentity | None:
    """Start an agent and do not wait for it; None where one answers, or holds the lock and so will soon.

    Where somebody listens for it (systemd's proa.socket), the first question starts it. Raises ProaError
    where it cannot be run.
    """
    if answers(places.agent_socket) or is_held(places.agent_lock):
        return None
    return spawn_detached([sys.executable, "-m", "proa.agent"], log=places.agent_log, env=_environ())


def _environ() -> dict[str, str]:
    """The agent lives longer than this shell: what steers a single command is not for it."""
    return {
        key: value for key, value in os.environ.items() if not key.startswith(("DOCKER_", "PROA_MACHINE"))
    }


def spawn(client: AgentClient, places: Places) -> None:
    """Start an agent and wait until it answers. Raises ProaError `agent-did-not-start`, with its log."""
    began = places.agent_log.stat().st_size if places.agent_log.exists() else 0
    deadline = time.monotonic() + START_TIMEOUT
    child = hasten(places)
    while True:
        with contextlib.suppress(ProaError):
            client.info()
            return
        # Another command's agent may have won: then ours has ended, and the lock is held all the same.
        gone = not is_held(places.agent_lock) and not answers(places.agent_socket)
        if gone and child is None:
            child = hasten(places)  # the one that held the lock was ending, or could not start
        elif (gone and child is not None and identify(child.pid) != child) or time.monotonic() > deadline:
            raise _did_not_start(places, began)
        time.sleep(POLL)


def _did_not_start(places: Places, began: int) -> ProaError:
    grown = places.agent_log.exists() and places.agent_log.stat().st_size > began
    told = tail(places.agent_log, 8) if grown else ()
    return ProaError(
        "agent-did-not-start",
        "the agent did not start",
        why=told[-1] if told else f"it did not answer within {START_TIMEOUT:.0f} s",
        hint=f"its log: {places.agent_log}",
        log=told,
    )


def replace(places: Places) -> None:
    """Ask an agent of another version to end; machines go on running and are adopted."""
    try:
        pid = int(places.agent_lock.read_text())
    except (OSError, ValueError):
        return
    identity = identify(pid)
    if identity is None or not is_held(places.agent_lock):
        return
    kill(identity)
    if not wait_until_gone(identity, END_TIMEOUT):
        raise ProaError(
            "agent-old",
            "an agent of another version does not end",
            why=f"its pid is {pid}",
            hint=f"end it: kill {pid}",
        )
