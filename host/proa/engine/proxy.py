"""The thin shell around the conversation: sockets, back-pressure, and the engine's streams."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from proa.engine import commands as say
from proa.engine.commands import Command
from proa.engine.conversation import Conversation
from proa.engine.mounts import HostMount, Target
from proa.model.errors import ProaError
from proa.system.tasks import Tasks
from proa_guest.relay import HIGH, LOW, End, reset

log = logging.getLogger("proa.engine")

SETTLE_TIMEOUT = 5.0  # seconds that an answer waits for ports to be bound


class EngineStream(Protocol):
    """A stream to the engine, as proa.link opens it."""

    @property
    def transport(self) -> asyncio.Transport: ...

    def attach(self, protocol: asyncio.Protocol) -> None: ...


class NotShared(Exception):
    """A host path that containers do not get; the engine's status for it, and what the user is told."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


# Raises NotShared, ProaError.
ShareFolders = Callable[[Sequence[HostMount]], Awaitable[Mapping[str, Target]]]


class EngineProxy:
    """One machine's engine socket."""

    def __init__(
        self,
        open_stream: Callable[[], Awaitable[EngineStream]],
        *,
        settled: Callable[[], Awaitable[None]],
        machine: str,
        asleep: Callable[[], bool] = lambda: False,
        share: ShareFolders | None = None,
    ) -> None:
        """`asleep` says whether the machine was suspended: who listens to its events then hears on later.

        `share` makes host paths ready for the guest; without it every mount of one is refused.
        """
        self.share = share
        self.asleep = asleep
        self.open_stream = open_stream
        self.settled = settled
        self.tasks = Tasks(f"engine socket of {machine}")
        self.clients: set[Client] = set()
        self.last_use = 0.0  # when a client last said something, on the loop's clock
        self._server: asyncio.Server | None = None

    async def serve(self, listener: socket.socket) -> None:
        """Answer on a listening Unix socket."""
        loop = asyncio.get_running_loop()
        # Not create_unix_server: from Python 3.13 on it removes the socket from the disk with the server,
        # and that is not ours to do where a service manager made it.
        self._server = await loop.create_server(self.client, sock=listener)

    def client(self) -> asyncio.Protocol:
        """What serves one more connection, wherever it comes from."""
        return Client(self)

    def awake(self, since: float) -> None:
        """It was suspended at `since` (Unix time) and its engine answers again: events go on from there."""
        for client in list(self.clients):
            client.go_on(since)

    def forget(self) -> None:
        """It was ended in its sleep: nobody is held any more."""
        for client in list(self.clients):
            client.forget()

    def in_use(self) -> bool:
        """Whether any client waits for an answer, or speaks raw; who only hears events does not count."""
        return any(client.in_use for client in self.clients)

    async def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for client in list(self.clients):
            client.abort()
        await self.tasks.close()


class Client(asyncio.Protocol):
    """One connection of a Docker client."""

    def __init__(self, proxy: EngineProxy) -> None:
        self._proxy = proxy
        self._conversation = Conversation(shares=proxy.share is not None)
        self._transport: asyncio.Transport | None = None
        self._engine: EngineSide | None = None
        self._raw: asyncio.Transport | None = None  # the connection, once it was spliced
        self._eof = False
        self._engine_full = False  # the engine reads slowly
        self._client_full = False  # the client reads slowly

    @property
    def in_use(self) -> bool:
        return self._raw is not None or not (self._conversation.idle or self._conversation.watching)

    # -- the client's side --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH, low=LOW)
        self._proxy.clients.add(self)

    def data_received(self, data: bytes) -> None:
        self._do(self._conversation.client_data(data))
        if not self._conversation.watching:
            self._proxy.last_use = asyncio.get_running_loop().time()

    def eof_received(self) -> bool:
        self._eof = True
        self._do(self._conversation.client_eof())
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._proxy.clients.discard(self)
        self._transport = None
        self._do(self._conversation.client_lost())

    def pause_writing(self) -> None:
        self._client_full = True
        self._balance()

    def resume_writing(self) -> None:
        self._client_full = False
        self._balance()

    def abort(self) -> None:
        transport = self._transport or self._raw
        if transport is not None:
            transport.abort()

    # -- the engine's side --------------------------------------------------------------------

    def engine_data(self, side: EngineSide, data: bytes) -> None:
        if side is self._engine:
            self._do(self._conversation.engine_data(data))

    def go_on(self, since: float) -> None:
        self._do(self._conversation.go_on(f"{since:.6f}"))

    def forget(self) -> None:
        self._do(self._conversation.forget())

    def engine_eof(self, side: EngineSide) -> None:
        if side is self._engine and self._proxy.asleep() and self._conversation.hold():
            self._close_engine()
        elif side is self._engine:
            self._do(self._conversation.engine_eof())

    def engine_full(self, side: EngineSide, full: bool) -> None:
        if side is self._engine:
            self._engine_full = full
            self._balance()

    async def _open(self) -> None:
        try:
            stream = await self._proxy.open_stream()
        except ProaError as error:
            self._do(self._conversation.engine_failed(_words(error)))
            return
        self._engine = EngineSide(self)
        stream.attach(self._engine)
        self._do(self._conversation.engine_opened())

    async def _settle(self) -> None:
        try:
            async with asyncio.timeout(SETTLE_TIMEOUT):
                await self._proxy.settled()
        except TimeoutError:
            log.warning("published ports were not bound within %.0f s", SETTLE_TIMEOUT)
        except ProaError as error:
            log.warning("published ports: %s", error)
        self._do(self._conversation.settled())

    async def _share(self, wanted: tuple[HostMount, ...]) -> None:
        assert self._proxy.share is not None
        try:
            targets = await self._proxy.share(wanted)
        except NotShared as error:
            self._do(self._conversation.not_shared(error.status, str(error)))
        except ProaError as error:
            self._do(self._conversation.not_shared(503, _words(error)))
        else:
            self._do(self._conversation.shared(targets))

    # -- commands -----------------------------------------------------------------------------

    def _do(self, commands: list[Command]) -> None:
        for command in commands:
            self._carry_out(command)
        self._balance()

    def _carry_out(self, command: Command) -> None:
        engine = self._engine.transport if self._engine is not None else None
        match command:
            case say.ToEngine(data) if engine is not None:
                engine.write(data)
            case say.ToClient(data) if self._transport is not None:
                self._transport.write(data)
            case say.EngineEof() if engine is not None:
                engine.write_eof()
            case say.CloseClient() if self._transport is not None:
                self._transport.close()
            case say.Splice(to_engine, to_client):
                self._splice(to_engine, to_client)
            case say.CloseEngine():
                self._close_engine()
            case say.OpenEngine():
                self._proxy.tasks.start(self._open(), name="open the engine")
            case say.Settle():
                self._proxy.tasks.start(self._settle(), name="settle ports")
            case say.Share(wanted):
                self._proxy.tasks.start(self._share(wanted), name="share folders")

    def _close_engine(self) -> None:
        side, self._engine = self._engine, None
        self._engine_full = False
        if side is not None and side.transport is not None:
            reset(side.transport)

    def _splice(self, to_engine: bytes, to_client: bytes) -> None:
        """Hand both connections over to a relay."""
        side, self._engine = self._engine, None
        client, self._transport = self._transport, None
        if side is None or side.transport is None or client is None:
            self._proxy.clients.discard(self)
            for transport in (client, side.transport if side else None):
                if transport is not None:
                    transport.abort()
            return
        near, far = End(lambda: self._proxy.clients.discard(self)), End()
        self._raw = client
        engine = side.transport
        for transport, end in ((client, near), (engine, far)):
            transport.set_protocol(end)
            end.connection_made(transport)
        near.join(far)
        client.write(to_client)
        engine.write(to_engine)
        if self._eof:
            near.eof_received()
        if side.eof:
            far.eof_received()
        client.resume_reading()
        engine.resume_reading()

    def _balance(self) -> None:
        """Read from each side only what the other can take."""
        if self._transport is not None:
            _reading(self._transport, self._conversation.wants_client and not self._engine_full)
        if self._engine is not None and self._engine.transport is not None:
            _reading(self._engine.transport, self._conversation.wants_engine and not self._client_full)


def _words(error: ProaError) -> str:
    """An error on one line, as the engine tells its own."""
    return ". ".join(part for part in (f"{error.message} [{error.code}]", error.why, error.hint) if part)


def _reading(transport: asyncio.Transport, wanted: bool) -> None:
    if transport.is_closing():
        return
    if wanted:
        transport.resume_reading()
    else:
        transport.pause_reading()


class EngineSide(asyncio.Protocol):
    """The engine's end of a connection, until it is spliced."""

    def __init__(self, client: Client) -> None:
        self.transport: asyncio.Transport | None = None
        self.eof = False
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=HIGH, low=LOW)

    def data_received(self, data: bytes) -> None:
        self._client.engine_data(self, data)

    def eof_received(self) -> bool:
        self.eof = True
        self._client.engine_eof(self)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if not self.eof:
            self._client.engine_eof(self)

    def pause_writing(self) -> None:
        self._client.engine_full(self, True)

    def resume_writing(self) -> None:
        self._client.engine_full(self, False)
