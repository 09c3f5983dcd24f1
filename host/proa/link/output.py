"""The output of a command in the guest, read in pieces or whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from proa.link.stream import LinkStream, gone
from proa.model.errors import ProaError
from proa_guest import wire

MOST_OUTPUT = 1 << 20  # bytes that are read whole
HIGH = 32  # pieces that wait for a slow reader before the guest has to


class Open(Protocol):
    """Opens a stream to a target in the guest: a pool's or a machine's."""

    async def __call__(self, target: str, *, extra: Mapping[str, object] | None = None) -> LinkStream: ...


class _OutputReader(asyncio.Protocol):
    """Takes frames, and holds the guest back while nobody reads. None ends the pieces."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._frames = wire.Frames()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            for kind, payload in self._frames.feed(data):
                if kind == wire.STDOUT:
                    self.pieces.put_nowait(payload)
        except wire.WireError:
            self._transport.abort()  # a guest that breaks the protocol: its output ends here
        if self.pieces.qsize() > HIGH:
            self._transport.pause_reading()

    async def next(self) -> bytes | None:
        piece = await self.pieces.get()
        if self._transport is not None and self.pieces.empty() and not self._transport.is_closing():
            self._transport.resume_reading()
        return piece

    def connection_lost(self, error: Exception | None) -> None:
        self.pieces.put_nowait(None)


@asynccontextmanager
async def command_pieces(open_stream: Open, argv: Sequence[str]) -> AsyncIterator[AsyncIterator[bytes]]:
    """What `argv` writes to its standard output in the guest; it is ended with the block."""
    stream = await open_stream("exec", extra={"argv": list(argv)})
    reader = _OutputReader()
    stream.attach(reader)

    async def pieces() -> AsyncIterator[bytes]:
        while (piece := await reader.next()) is not None:
            yield piece

    try:
        yield pieces()
    finally:
        stream.transport.abort()


async def command_output(open_stream: Open, argv: Sequence[str], timeout: float) -> bytes:
    """All that `argv` writes to its standard output. Raises ProaError `link-down`, `guest-unclear`."""
    out = bytearray()
    try:
        async with asyncio.timeout(timeout), command_pieces(open_stream, argv) as pieces:
            async for piece in pieces:
                out += piece
                if len(out) > MOST_OUTPUT:
                    raise ProaError("guest-unclear", f"{argv[0]} in the guest says too much")
    except TimeoutError as error:
        failure = gone()
        failure.why = f"{argv[0]} did not end within {timeout:.0f} s"
        raise failure from error
    return bytes(out)
