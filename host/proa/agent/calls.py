"""The guest's Docker CLI over the API, for a host that has none (proa_guest.call is the other end).

Its connections come back over streams that are parked for this call, and are clients of the machine's engine
socket as any on the host: mounts are looked at there, and ports and events are the host's.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable

import msgspec
from aiohttp import web

from proa.agent import streams
from proa.agent.attendant import Attendant
from proa.agent.share_rules import GuestView
from proa.model.api import DockerRequest
from proa.model.errors import ProaError
from proa.system.tasks import Tasks
from proa_guest import wire

log = logging.getLogger("proa.agent")


async def docker(request: web.Request, attendant: Attendant, wanted: DockerRequest) -> web.StreamResponse:
    """Run it: answer 101, then exec frames go both ways. Raises ProaError before that."""
    streams.check(request)
    view = await attendant.seen_from_guest(wanted.cwd, wanted.home)
    name = secrets.token_hex(16)
    try:
        stream = await attendant.machine.open_stream("call", _content(name, wanted, view))
    except ProaError as error:
        if error.code == "link-refused" and "no target" in error.why:
            raise _too_old(attendant.name) from error
        raise
    parking = _Parking(attendant, name)
    try:
        return await streams.splice(request, stream)
    finally:
        await parking.close()


def _content(name: str, wanted: DockerRequest, view: GuestView) -> dict[str, object]:
    """What the guest is told (proa_guest.call.Spec)."""
    seen = {"cwd": view.cwd, "home": view.home, "note": view.note, "folders": view.folders}
    return {**msgspec.structs.asdict(wanted), **seen, "call": name}


def _too_old(machine: str) -> ProaError:
    return ProaError(
        "docker-missing",
        "there is no Docker CLI",
        why="this computer has none that it could run, and the machine was booted by an earlier Proa",
        hint=f"boot it anew: proa restart --cold {machine}",
    )


class _Parking:
    """Keeps a stream parked for one call: another follows each that it claims."""

    def __init__(self, attendant: Attendant, call: str) -> None:
        self._attendant = attendant
        self._call = call
        self._tasks = Tasks(f"call {call[:8]}")
        self._over = False
        self._more()

    def _more(self) -> None:
        if not self._over:
            self._tasks.start(self._park(), name="park a stream")

    async def _park(self) -> None:
        try:
            stream = await self._attendant.machine.open_stream(
                "reverse", {"call": self._call, "kind": "engine"}
            )
        except ProaError as error:
            log.debug("a call has no more streams: %s", error)  # as a rule it has just ended
            return
        stream.attach(Reverse(self._attendant.engine_client, self._more))

    async def close(self) -> None:
        self._over = True
        await self._tasks.close()


class Reverse(asyncio.Protocol):
    """A parked stream: once the guest claims it, it is served by what `serve` makes."""

    def __init__(self, serve: Callable[[], asyncio.Protocol], claimed: Callable[[], None]) -> None:
        self._serve = serve
        self._claimed = claimed
        self._lines = wire.Lines(len(wire.CLAIM))
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        assert transport is not None
        try:
            line = self._lines.feed(data)
        except wire.WireError:
            line = b""
        if line is None:
            return
        if line + b"\n" != wire.CLAIM:
            log.warning("the guest said something else than that it claims a stream")
            transport.abort()
            return
        served = self._serve()
        transport.set_protocol(served)
        served.connection_made(transport)
        self._claimed()
        if rest := self._lines.rest:
            served.data_received(rest)
