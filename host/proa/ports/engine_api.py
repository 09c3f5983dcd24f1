"""A small client of the Docker API over link streams: JSON answers, and streams of JSON lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import h11
import msgspec

from proa.link.stream import LinkStream
from proa.model.errors import ProaError

MAX_ANSWER = 32 << 20  # bytes; a list of a thousand containers has three
MAX_LINE = 1 << 20
TIMEOUT = 30.0


class EngineApi:
    """Asks one machine's engine."""

    def __init__(self, open_stream: Callable[[], Awaitable[LinkStream]]) -> None:
        self._open_stream = open_stream

    async def get_json(self, path: str, timeout: float = TIMEOUT) -> object:
        """The answer to GET `path`. Raises ProaError `engine-silent`, `engine-refused`, or the link's."""
        body = bytearray()
        try:
            async with asyncio.timeout(timeout), self._ask(path) as answer:
                async for data in answer:
                    body += data
                    if len(body) > MAX_ANSWER:
                        raise _silent("its answer is too long")
            return msgspec.json.decode(body)
        except (TimeoutError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _silent(str(error) or f"no answer within {timeout:.0f} s") from error

    async def version(self) -> str:
        """The engine's version. Raises ProaError `engine-silent`, or the link's."""
        answer = await self.get_json("/version")
        version = answer.get("Version") if isinstance(answer, dict) else None
        if not isinstance(version, str):
            raise _silent("it names no version")
        return version[:64]

    async def ping(self) -> None:
        """Return if the engine answers. Raises ProaError `engine-silent`, or the link's."""
        async with self._ask("/_ping") as answer:
            if b"".join([data async for data in answer]) != b"OK":
                raise _silent("its answer to a ping is not one")

    async def lines(self, path: str) -> AsyncIterator[object]:
        """JSON values of a streamed answer, one a line, until it ends. Raises as get_json does."""
        held = bytearray()
        async with self._ask(path) as answer:
            async for data in answer:
                held += data
                while (end := held.find(b"\n")) >= 0:
                    line = bytes(held[:end])
                    del held[: end + 1]
                    try:
                        yield msgspec.json.decode(line)
                    except (msgspec.DecodeError, UnicodeDecodeError) as error:
                        raise _silent(str(error)) from error
                if len(held) > MAX_LINE:
                    raise _silent("a line of its answer is too long")

    @asynccontextmanager
    async def _ask(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        stream = await self._open_stream()
        reader = asyncio.StreamReader(limit=256 << 10)
        stream.attach(asyncio.StreamReaderProtocol(reader))
        transport = stream.transport
        try:
            yield _exchange(reader, transport, path)
        finally:
            transport.abort()


async def _exchange(
    reader: asyncio.StreamReader, transport: asyncio.Transport, path: str
) -> AsyncIterator[bytes]:
    connection = h11.Connection(h11.CLIENT)
    request = h11.Request(method="GET", target=path, headers=[("Host", "docker"), ("Connection", "close")])
    transport.write((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
    while True:
        try:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(64 << 10))
                continue
        except (h11.RemoteProtocolError, OSError) as error:
            raise _silent(str(error)) from error
        if isinstance(event, h11.Response) and event.status_code >= 300:
            raise ProaError(
                "engine-refused",
                f"the engine refused {path.partition('?')[0]}",
                why=f"status {event.status_code}",
                layer="engine",
            )
        if isinstance(event, h11.Data):
            yield bytes(event.data)
        if isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
            return


def _silent(why: str) -> ProaError:
    return ProaError("engine-silent", "the engine does not answer", why=why, layer="engine")
