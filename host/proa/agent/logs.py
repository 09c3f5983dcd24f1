"""The API's logs: the agent's and the console's are files, the others are in the guest."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO

from aiohttp import web

from proa.agent.attendant import Attendant
from proa.link.output import command_pieces
from proa.machine.last_logs import GUEST_LOGS
from proa.model.api import LOG_SOURCES
from proa.model.errors import ProaError
from proa.system.paths import Places

MOST_LINES = 10_000
LOOK_AGAIN = 0.25  # seconds between looks at a log that is followed
CHUNK = 64 << 10
TAIL = 4 << 20  # bytes from the end of a file in which its last lines are looked for


async def logs(request: web.Request, find: Callable[[], Attendant], places: Places) -> web.StreamResponse:
    """The last lines of a log as text, and with `follow=1` what comes after them.

    The agent's own log needs no machine: `find` is asked only for the others.
    """
    source = request.query.get("source", "console")
    lines = line_count(request.query.get("lines", "100"))
    follow = request.query.get("follow") == "1"
    if source not in LOG_SOURCES:
        raise ProaError(
            "bad-source", f"there is no log {source!r}", why=f"logs: {', '.join(LOG_SOURCES)}", usage=True
        )
    if source in GUEST_LOGS:
        return await _guest_log(request, find(), source, lines, follow)
    path = places.agent_log if source == "agent" else find().machine.paths.console_log
    response = await _text(request)
    async for chunk in read(path, lines, follow=follow):
        await response.write(chunk)
    return response


def line_count(text: str) -> int:
    """A query's number of lines. Raises ProaError `bad-lines`."""
    if text.isdecimal() and 0 <= int(text) <= MOST_LINES:
        return int(text)
    raise ProaError("bad-lines", f"{text!r} is no number of lines", why=f"0 to {MOST_LINES}", usage=True)


async def _text(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_type = "text/plain"
    response.charset = "utf-8"
    await response.prepare(request)
    return response


async def read(path: Path, lines: int, *, follow: bool) -> AsyncIterator[bytes]:
    """The last lines of a file; then what is appended, also after it was rotated away, replaced or cut.

    The file that was renamed is read to its end before the new one is opened, so nothing is lost.
    """
    file = _open(path)
    try:
        if file is not None:
            for piece in _last(file, lines):
                yield piece
        while follow:
            if file is not None and (chunk := _next(file)):
                yield chunk
                continue
            if (file is None or not _same(file, path)) and (newer := _open(path)) is not None:
                if file is not None:
                    yield file.read()  # written between our last look and the rename
                    file.close()
                file = newer
                continue
            await asyncio.sleep(LOOK_AGAIN)  # a file on disk has no portable event
    finally:
        if file is not None:
            file.close()


def _next(file: IO[bytes]) -> bytes:
    """What was appended; a file that was cut is read from its start."""
    chunk = file.read(CHUNK)
    if not chunk and file.tell() > os.fstat(file.fileno()).st_size:
        file.seek(0)
        chunk = file.read(CHUNK)
    return chunk


def _open(path: Path) -> IO[bytes] | None:
    try:
        return path.open("rb")
    except OSError:
        return None


def _same(file: IO[bytes], path: Path) -> bool:
    """False once another file stands at `path`; a path where none stands yet is no reason to leave."""
    try:
        there = path.stat()
    except OSError:
        return True
    return os.path.samestat(os.fstat(file.fileno()), there)


def _last(file: IO[bytes], lines: int) -> list[bytes]:
    """The last lines; the file is left at the end of what was read, so that nothing comes twice."""
    size = os.fstat(file.fileno()).st_size
    begin = max(0, size - TAIL)
    file.seek(begin)
    found = file.read(size - begin).replace(b"\r", b"").splitlines(keepends=True)
    return found[-lines:] if lines else []


async def _guest_log(
    request: web.Request, attendant: Attendant, source: str, lines: int, follow: bool
) -> web.StreamResponse:
    """A log in the guest, read by its own `tail`; of a machine that ended, what was kept."""
    machine = attendant.machine
    if machine.session is None:
        kept = machine.paths.kept_log(source)
        file = _open(kept)
        if file is None:
            raise _not_kept(machine.name, source, str((await attendant.status()).state))
        with file:
            response = await _text(request)
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(os.fstat(file.fileno()).st_mtime))
            await response.write(f"-- kept at {stamp}, when {machine.name} ended --\n".encode())
            for piece in _last(file, lines):
                await response.write(piece)
            return response
    argv = ["tail", f"--lines={lines}", *(["-F"] if follow else []), GUEST_LOGS[source]]
    async with command_pieces(machine.open_stream, argv) as pieces:
        response = await _text(request)
        async for chunk in pieces:
            await response.write(chunk)
    return response


def _not_kept(name: str, source: str, state: str) -> ProaError:
    return ProaError(
        "machine-not-running",
        f"there is no {source} log: the machine {name!r} is {state}",
        why="that log lies in the guest's memory, and is kept only by an orderly stop or a failed start",
        hint=f"proa logs {name} --source console has the guest's last words; to start it: proa start {name}",
    )
