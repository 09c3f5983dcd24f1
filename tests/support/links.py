"""A link stream as asyncio's reader and writer."""

from __future__ import annotations

import asyncio

from proa.link.stream import LinkStream

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def streams(stream: LinkStream, limit: int = 1 << 16) -> Streams:
    """`limit` is the reader's, in bytes."""
    reader = asyncio.StreamReader(limit=limit)
    protocol = asyncio.StreamReaderProtocol(reader)
    stream.attach(protocol)
    return reader, asyncio.StreamWriter(stream.transport, protocol, reader, asyncio.get_running_loop())
