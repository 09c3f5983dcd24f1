"""The API's two long streams: logs, and a command in the guest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from proa.agent.attendant import Attendant
from proa.model.errors import ProaError
from proa.system.files import tail
from proa.system.paths import Places

log = logging.getLogger("proa.agent")

SOURCES = ("agent", "console", "engine")
MOST_LINES = 10_000
LOOK_AGAIN = 0.25  # seconds between looks at a log that is followed
CHUNK = 64 << 10


async def logs(request: web.Request, attendant: Attendant, places: Places) -> web.StreamResponse:
    """The last lines of a log as text, and with `follow=1` what comes after them."""
    source = request.query.get("source", "console")
    lines = _lines(request.query.get("lines", "100"))
    follow = request.query.get("follow") == "1"
    if source not in SOURCES:
        raise ProaError(
            "bad-source", f"there is no log {source!r}", why=f"logs: {', '.join(SOURCES)}", usage=True
        )
    if source == "engine":
        return await _engine_log(request, attendant, lines, follow)
    path = places.agent_log if source == "agent" else attendant.machine.paths.console_log
    response = await _text(request)
    position = path.stat().st_size if path.exists() else 0
    for line in tail(path, lines, limit=4 << 20):
        await response.write(line.encode() + b"\n")
    if follow:
        async for chunk in _growth(path, position):
            await response.write(chunk)
    return response


def _lines(text: str) -> int:
    if text.isdecimal() and 0 <= int(text) <= MOST_LINES:
        return int(text)
    raise ProaError("bad-lines", f"{text!r} is no number of lines", why=f"0 to {MOST_LINES}", usage=True)


async def _text(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_type = "text/plain"
    response.charset = "utf-8"
    await response.prepare(request)
    return response


async def _growth(path: Path, position: int) -> AsyncIterator[bytes]:
    """What is appended to `path` from `position` on; a file that was rotated is read from its start."""
    while True:
        size = path.stat().st_size if path.exists() else 0
        if size < position:
            position = 0
        if size > position:
            with path.open("rb") as file:
                file.seek(position)
                chunk = file.read(CHUNK)
            position += len(chunk)
            yield chunk
        else:
            await asyncio.sleep(LOOK_AGAIN)  # a file on disk has no portable event


async def _engine_log(
    request: web.Request, attendant: Attendant, lines: int, follow: bool
) -> web.StreamResponse:
    """dockerd's log is in the guest; while nobody can ask the guest there is none."""
    session = attendant.machine.session
    if session is None:
        raise ProaError(
            "machine-not-running",
            f"the engine of {attendant.name!r} has no log now",
            why="it is in the guest, and the machine is not running",
            hint=f"proa start {attendant.name}; or: proa logs --source console",
        )
    seen = await session.control.log("dockerd", lines)
    response = await _text(request)
    while True:
        for line in seen:
            await response.write(line.encode() + b"\n")
        if not follow:
            return response
        await asyncio.sleep(LOOK_AGAIN * 4)
        seen = _newer(seen, await session.control.log("dockerd", MOST_LINES))


def _newer(seen: tuple[str, ...], now: tuple[str, ...]) -> tuple[str, ...]:
    """The lines of `now` behind the last of `seen` (each of dockerd's lines has its time)."""
    if not seen:
        return now
    for index in range(len(now) - 1, -1, -1):
        if now[index] == seen[-1]:
            return now[index + 1 :]
    return now
