"""An agent that holds its lock: log, signals, and an orderly end that leaves machines running."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import os
import signal
import sys

from proa import __version__
from proa.agent.agent import Agent
from proa.model.errors import ProaError
from proa.system import login
from proa.system.activation import Listeners
from proa.system.paths import Places

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


async def _until_told(places: Places, listeners: Listeners) -> None:
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


def serve(places: Places, listeners: Listeners) -> int:
    """Serve until SIGTERM; the exit status."""
    set_up_log(places)
    try:
        asyncio.run(_until_told(places, listeners))
    except ProaError as error:
        log.error("%s", error)
        print(*error.lines, sep="\n", file=sys.stderr)
        return 1
    return 0
