"""A mirror that behaves as it is told: a raw HTTP server on loopback, one function an answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

ETAG = '"one"'


@dataclass
class Asked:
    """One request: its path and its headers in lower case."""

    path: str
    headers: dict[str, str]

    @property
    def start(self) -> int:
        """Where the asked range begins; 0 without one."""
        return int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").split("-")[0])


Answer = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Mirror:
    """Answers with `answers` in turn; the last one is repeated."""

    answers: list[Answer]
    asked: list[Asked] = field(default_factory=list)
    port: int = 0

    def url(self, path: str = "/image.tar") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {}
            for line in filter(None, head[1:]):
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            self.asked.append(Asked(head[0].split(" ")[1], headers))
            answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
            await answer(self.asked[-1], writer)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def mirror(*answers: Answer) -> AsyncIterator[Mirror]:
    found = Mirror(list(answers))
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()


def head(status: str, **headers: object) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


def good(data: bytes, etag: str = ETAG, cut: int | None = None) -> Answer:
    """As a mirror should: ranges under a matching If-Range; with `cut` it ends after so many bytes."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        start = asked.start if asked.headers.get("if-range") == etag else 0
        body = data[start:]
        if start:
            span = f"bytes {start}-{len(data) - 1}/{len(data)}"
            said = head("206 Partial", Content_Length=len(body), Content_Range=span, ETag=etag)
        else:
            said = head("200 OK", Content_Length=len(body), ETag=etag)
        writer.write(said + body[:cut])

    return answer


def raw(*pieces: bytes) -> Answer:
    """These bytes, whatever is asked."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)

    return answer


def stalls(data: bytes) -> Answer:
    """Sends `data`, then nothing more, and does not end the connection."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        await asyncio.Event().wait()

    return answer


def endless(first: bytes) -> Answer:
    """Sends `first`, then zeros until nobody listens."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(bytes(64 << 10))
            await writer.drain()

    return answer
