"""Splices two asyncio transports: back-pressure, true half-close, and an end when either side breaks."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

# Bytes that may wait for a slow reader before the other side is paused.
HIGH, LOW = 256 << 10, 64 << 10


def reset(transport: asyncio.Transport) -> None:
    """End a connection at once and say so: with a reset where it is TCP, so that nobody waits for more."""
    connection = transport.get_extra_info("socket")
    tcp = connection is not None and connection.family != getattr(socket, "AF_UNIX", None)
    if tcp and connection.fileno() >= 0:  # it may be gone already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class End(asyncio.Protocol):
    """One end of a splice. Whatever arrives here leaves by the other end."""

    def __init__(self, closed: Callable[[], None] | None = None) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: End | None = None
        self._closed = closed
        self._early: list[bytes] = []
        self._eof = False

    def join(self, other: End) -> None:
        """Make the two ends of one splice; each may have its transport already, or get it later."""
        self.other, other.other = other, self
        for end in (self, other):
            end.pass_on_early()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=HIGH, low=LOW)
        if self.other is not None:
            self.other.pass_on_early()

    def pass_on_early(self) -> None:
        """Deliver what came before the other end had its transport."""
        if self.other is None or self.other.transport is None:
            return
        early, self._early = self._early, []
        for data in early:
            self.other.transport.write(data)
        if self._eof:
            self.other.finish()
        if self.transport is not None and early:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)
            return
        self._early.append(data)
        if self.transport is not None:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self._eof = True
        if self.other is not None and self.other.transport is not None:
            self.other.finish()
        return True  # this direction has ended, the other has not

    def finish(self) -> None:
        """The other side will send no more: half-close, and close once both directions have ended."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self._eof:
            transport.close()
            if self.other is not None and self.other.transport is not None:
                self.other.transport.close()
        elif transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        other, self.transport = self.other, None
        if other is not None and other.transport is not None:
            if error is not None:
                reset(other.transport)  # a break on one side is one on the other, not an orderly end
            else:
                other.transport.close()
        closed, self._closed = self._closed, None
        if closed is not None:
            closed()
