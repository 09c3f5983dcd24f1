"""The agent's process. The lock comes first, and then what takes a while to import: others see at once
that an agent is coming, and one too many ends before it has cost anything.
"""

from __future__ import annotations

import os
import sys

from proa.agent.spawn import replace
from proa.model.errors import ProaError
from proa.system.activation import Listeners
from proa.system.locks import FileLock
from proa.system.paths import Places
from proa.system.sockets import answers

LOOK = 0.1  # seconds; far longer than anybody's look at the lock


def _take_lock(places: Places, listeners: Listeners) -> FileLock | None:
    """The lock of the one agent, or None where another is at work. Raises ProaError `agent-old`.

    An agent that has the service manager's sockets takes over from one that a command started before
    those were there: nobody reaches that one any more. One without them leaves the field where somebody
    listens already, for that starts an agent as soon as it is asked.
    """
    if listeners:
        lock = FileLock.try_acquire(places.agent_lock)
        if lock is None:
            replace(places)
            lock = FileLock.try_acquire(places.agent_lock)
        return lock
    if answers(places.agent_socket):
        return None
    return FileLock.acquire(places.agent_lock, LOOK)


def main() -> int:
    """Run the agent until SIGTERM. Exit status 0 at its end, also where another agent is at work already."""
    listeners = Listeners.take(os.environ)
    try:
        places = Places.current()
        places.make()
        lock = _take_lock(places, listeners)
    except ProaError as error:
        print(*error.lines, sep="\n", file=sys.stderr)
        return 2 if error.usage else 1
    if lock is None:
        print("proa: an agent is running already", file=sys.stderr)
        return 0
    try:
        lock.write(f"{os.getpid()}\n")
        from proa.agent.serving import serve

        return serve(places, listeners)
    finally:
        lock.release()
