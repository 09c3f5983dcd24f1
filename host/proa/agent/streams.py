"""The API's two long streams: logs, and a command in the guest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from aiohttp import web

from proa.agent.attendant import Attendant
from proa.model.api import ExecRequest
from proa.model.errors import ProaError
from proa.system.files import tail
from proa.system.paths import Places
from proa_guest import wire
from proa_guest.relay import End

log = logging.getLogger("proa.agent")

UPGRADE = "proa-exec"
SOURCES = ("agent", "console", "engine")
MOST_LINES = 10_000
LOOK_AGAIN = 0.25  # seconds between looks at a log that is followed
CHUNK = 64 << 10


async def logs(request: web.Request, find: Callable[[], Attendant], places: Places) -> web.StreamResponse:
    """The last lines of a log as text, and with `follow=1` what comes after them.

    The agent's own log needs no machine: `find` is asked only for the others.
    """
    source = request.query.get("source", "console")
    lines = line_count(request.query.get("lines", "100"))
    follow = request.query.get("follow") == "1"
    if source not in SOURCES:
        raise ProaError(
            "bad-source", f"there is no log {source!r}", why=f"logs: {', '.join(SOURCES)}", usage=True
        )
    if source == "engine":
        return await _engine_log(request, find(), lines, follow)
    path = places.agent_log if source == "agent" else find().machine.paths.console_log
    response = await _text(request)
    position = path.stat().st_size if path.exists() else 0
    for line in tail(path, lines, limit=4 << 20):
        await response.write(line.encode() + b"\n")
    if follow:
        async for chunk in _growth(path, position):
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
    """dockerd's log is in the guest: its own `tail` reads it."""
    argv = ["tail", f"--lines={lines}", *(["-F"] if follow else []), "/var/log/proa/dockerd.log"]
    stream = await attendant.machine.open_stream("exec", {"argv": argv})
    chunks: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=64)
    stream.attach(_OutputReader(chunks))
    response = await _text(request)
    try:
        while (chunk := await chunks.get()) is not None:
            await response.write(chunk)
    finally:
        stream.transport.abort()
    return response


class _OutputReader(asyncio.Protocol):
    """The output of a command in the guest, in pieces; None at its end."""

    def __init__(self, chunks: asyncio.Queue[bytes | None]) -> None:
        self._chunks = chunks
        self._frames = wire.Frames()
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for kind, payload in self._frames.feed(data):
                if kind == wire.STDOUT:
                    self._chunks.put_nowait(payload)
        except (wire.WireError, asyncio.QueueFull):
            # A guest that breaks the protocol, or a reader who cannot follow: the log ends here.
            if isinstance(self._transport, asyncio.Transport):
                self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        while True:
            try:
                self._chunks.put_nowait(None)
            except asyncio.QueueFull:
                self._chunks.get_nowait()
            else:
                return


async def execute(request: web.Request, attendant: Attendant, wanted: ExecRequest) -> web.StreamResponse:
    """Run a command in the guest: answer 101, then the link's exec frames go both ways as they are."""
    transport = request.transport
    if transport is None or request.headers.get("Upgrade", "").lower() != UPGRADE:
        raise ProaError("bad-request", f"this wants `Upgrade: {UPGRADE}`", usage=True)
    extra = {"argv": list(wanted.argv), "tty": wanted.tty, "rows": wanted.rows}
    stream = await attendant.machine.open_stream(
        "exec", {**extra, "columns": wanted.columns, "term": wanted.term}
    )
    handler = request.protocol
    over = asyncio.Event()
    near, far = End(over.set), End()
    transport.write(
        f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n\r\n".encode()
    )
    transport.set_protocol(near)
    near.connection_made(transport)
    near.join(far)
    stream.attach(far)
    try:
        await over.wait()
    finally:
        transport.abort()
        # aiohttp's own protocol has not seen the connection's end: it was no longer its own.
        handler.connection_lost(None)
    return web.Response()
