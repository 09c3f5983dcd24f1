"""A command in the guest over the API: the link's exec frames go both ways as they are."""

from __future__ import annotations

import asyncio

from aiohttp import web

from proa.agent.attendant import Attendant
from proa.link.stream import LinkStream
from proa.model.api import ExecRequest
from proa.model.errors import ProaError
from proa_guest.relay import End

UPGRADE = "proa-exec"


async def execute(request: web.Request, attendant: Attendant, wanted: ExecRequest) -> web.StreamResponse:
    """Run a command in the guest: answer 101, then the link's exec frames go both ways as they are."""
    check(request)
    extra = {"argv": list(wanted.argv), "tty": wanted.tty, "rows": wanted.rows}
    stream = await attendant.machine.open_stream(
        "exec", {**extra, "columns": wanted.columns, "term": wanted.term}
    )
    return await splice(request, stream)


def check(request: web.Request) -> None:
    """Raises ProaError unless the request asks for frames."""
    if request.transport is None or request.headers.get("Upgrade", "").lower() != UPGRADE:
        raise ProaError("bad-request", f"this wants `Upgrade: {UPGRADE}`", usage=True)


async def splice(request: web.Request, stream: LinkStream) -> web.StreamResponse:
    """Answer 101 and pass everything on, until either side ends."""
    transport = request.transport
    assert transport is not None
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
