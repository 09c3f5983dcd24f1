"""A stream to a target in the guest: first parked, then in use, then handed to whoever speaks on it."""

from __future__ import annotations

import asyncio
import socket
import sys

from proa.model.errors import ProaError
from proa_guest import wire
from proa_guest.relay import End, reset


class LinkStream(asyncio.Protocol):
    """One connection to the guest.

    `proved` is done when both sides hold the secret; `use` takes it into use; `attach` hands it over.
    """

    def __init__(self, secret: bytes, target: str = "") -> None:
        """A stream that was dialled for a `target` asks for it along with this side's proof.

        That saves a turn of the guest's. Nothing but the target's name is said before the guest has proved
        itself, and nothing that it says is listened to.
        """
        loop = asyncio.get_running_loop()
        self.proved: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._handshake = wire.HostHandshake(secret)
        self._target = target
        self._answer: asyncio.Future[dict[str, str] | None] | None = loop.create_future() if target else None
        self._lines = wire.Lines(wire.MAX_ANSWER)
        self._transport: asyncio.Transport | None = None
        self._leftover = b""
        self._eof = False

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    @property
    def alive(self) -> bool:
        return self._transport is not None and not self._transport.is_closing() and not self._eof

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._take(data)
        except wire.WireError as error:
            self._fail(ProaError("link-not-proved", "the guest does not prove who it is", why=str(error)))

    def _take(self, data: bytes) -> None:
        if not self.proved.done():
            if out := self._handshake.feed(data):
                self.transport.write(out + (wire.request(self._target) if self._target else b""))
            if not self._handshake.done:
                return
            self.proved.set_result(None)
            data = self._handshake.rest
            if not data:
                return
        if self._answer is None:
            raise wire.WireError("it spoke before it was asked")
        if self._answer.done():
            # Nobody has attached yet: hold what came, and let the rest wait in the network.
            self._leftover += data
            self.transport.pause_reading()
            return
        line = self._lines.feed(data)
        if line is not None:
            self._leftover = self._lines.rest
            self.transport.pause_reading()
            self._answer.set_result(wire.read_answer(line))

    def _fail(self, error: ProaError) -> None:
        for waiting in (self.proved, self._answer):
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # whoever waits sees it; nobody waiting is no mistake
        if self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> bool:
        self._eof = True
        if self._answer is None or not self._answer.done():
            self._fail(gone())
            return False
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._eof = True
        self._fail(gone())
        if not self.closed.done():
            self.closed.set_result(None)

    async def use(self, target: str, early: bytes, extra: dict[str, object]) -> None:
        """Take the stream into use. Raises ProaError `link-down`, or the guest's refusal `link-refused`."""
        if self._answer is None:
            if not self.alive:
                raise gone()
            self._answer = asyncio.get_running_loop().create_future()
            early = wire.request(target, extra) + early
        if early:
            self.transport.write(early)
        problem = await self._answer
        if problem is not None:
            self.transport.abort()
            raise ProaError(
                "link-refused",
                f"the guest does not open {target}",
                why=problem["message"],
                hint=problem["hint"],
                layer="guest-agent",
            )

    def attach(self, protocol: asyncio.Protocol) -> None:
        """Hand the stream over: `protocol` gets the transport, what has come already, and all that comes."""
        transport = self.transport
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if not self.closed.done():
            self.closed.set_result(None)
        if self._leftover:
            protocol.data_received(self._leftover)
            self._leftover = b""
        transport.resume_reading()
        if self._eof:
            protocol.eof_received()

    async def hand_over(self) -> socket.socket:
        """A socket that another process can go on with: this one is not ours any more. Raises OSError."""
        if sys.platform != "win32":
            given: socket.socket = self.transport.get_extra_info("socket").dup()
            self.transport.abort()  # closes this descriptor only
            return given
        # There the loop shuts a connection down with the last of its own, and may have begun to read from it.
        ours, given = socket.socketpair()
        near, far = End(), End()
        near.join(far)
        ours.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: near, sock=ours)
        self.attach(far)
        return given

    def abort(self) -> None:
        if self._transport is not None:
            reset(self._transport)


def gone() -> ProaError:
    """The guest ended a connection."""
    return ProaError(
        "link-down",
        "the guest does not answer",
        why="it ended the connection",
        hint="proa status shows what is wrong",
        layer="guest-agent",
    )
