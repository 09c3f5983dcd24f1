"""The agent's process: lock, log, signals, and an orderly end that leaves machines running."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import os
import signal
import sys

from proa import __version__
from proa.agent.agent import Agent
from proa.agent.spawn import replace
from proa.model.errors import ProaError
from proa.system import login
from proa.system.activation import Listeners
from proa.system.locks import FileLock
from proa.system.paths import Places
from proa.system.sockets import answers

log = logging.getLogger("proa.agent")

LOG_SIZE = 2 << 20  # bytes a log file may have before it is rotated
LOG_FILES = 3


def set_up_log(places: Places) -> None:
    """One line an event: time, level, part, words. Rotated, private to the user."""
    os.umask(0o077)
    handler = logging.handlers.RotatingFileHandler(
        places.agent_log, maxBytes=LOG_SIZE, backupCount=LOG_FILES - 1, encoding="utf-8", errors="replace"
    )
    handlers: list[logging.Handler] = [handler]
    if sys.stderr.isatty():
        handlers.append(logging.StreamHandler())
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, handlers=handlers)
    logging.getLogger("qemu.qmp").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


async def _serve(places: Places, listeners: Listeners) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if sys.platform != "win32":
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
    agent = Agent(places, listeners)
    try:
        await agent.open()
        log.info("agent %s is up, pid %d", __version__, os.getpid())
        await stop.wait()
        leaving = await asyncio.to_thread(login.is_leaving) if listeners else False
        if leaving:
            log.info("the session ends; machines are stopped until they are used again")
            await agent.stop_machines()
        else:
            log.info("asked to end; machines go on running")
    finally:
        await agent.close()


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
    return None if answers(places.agent_socket) else FileLock.try_acquire(places.agent_lock)


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
        set_up_log(places)
        asyncio.run(_serve(places, listeners))
    except ProaError as error:
        log.error("%s", error)
        print(*error.lines, sep="\n", file=sys.stderr)
        return 1
    finally:
        lock.release()
    return 0
