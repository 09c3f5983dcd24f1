"""The shell, natively: a Unix socket in front, a real stream behind, bytes and back-pressure as they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from proa.engine.proxy import EngineProxy
from proa.model.errors import ProaError
from proa.system.sockets import listen_private

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class PlainStream:
    """A stream to a Unix socket, as proa.link hands one over."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def attach(self, protocol: asyncio.Protocol) -> None:
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        self.transport.resume_reading()


class World:
    """An engine that does what a test wants, and the proxy's socket in front of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.down = False
        self.settled = 0

    async def open(self) -> PlainStream:
        if self.down:
            raise ProaError("machine-not-running", "the machine is stopped", hint="start it: proa start")
        transport, _ = await asyncio.get_running_loop().create_unix_connection(
            asyncio.Protocol, str(self.folder / "engine.sock")
        )
        transport.pause_reading()
        return PlainStream(transport)

    async def settle(self) -> None:
        self.settled += 1

    async def start(self, serve: Serve) -> None:
        self._engine = await asyncio.start_unix_server(serve, str(self.folder / "engine.sock"))
        self._proxy = EngineProxy(self.open, settled=self.settle, machine="test")
        await self._proxy.serve(listen_private(self.folder / "run" / "docker.sock"))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self.folder / "run" / "docker.sock"))

    @property
    def clients(self) -> int:
        return len(self._proxy.clients)

    async def close(self) -> None:
        await self._proxy.close()
        self._engine.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.close()


async def test_a_stopped_machine_says_how_to_start_it(world: World) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("nobody is to come here")

    await world.start(never)
    world.down = True
    reader, writer = await world.connect()
    writer.write(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 503 ") and b"proa start" in answer
    writer.close()


async def test_an_attach_is_raw_with_half_close_both_ways(world: World) -> None:
    async def attach(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        data = await reader.read()
        writer.write(data.upper())
        writer.close()

    await world.start(attach)
    reader, writer = await world.connect()
    writer.write(
        b"POST /containers/a/attach HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(b"hello ")
    writer.write(b"there")
    writer.write_eof()
    assert await reader.read() == b"HELLO THERE"
    writer.close()


async def test_half_a_gigabyte_of_chunks_passes_fast_and_whole(world: World) -> None:
    block, blocks = b"%x\r\n" % (1 << 20) + bytes(1 << 20) + b"\r\n", 512

    async def save(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(blocks):
            writer.write(block)
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    await world.start(save)
    reader, writer = await asyncio.open_unix_connection(
        str(world.folder / "run" / "docker.sock"), limit=1 << 20
    )
    writer.write(b"GET /images/x/get HTTP/1.1\r\nHost: d\r\n\r\n")
    began = time.monotonic()
    await reader.readuntil(b"\r\n\r\n")
    left = len(block) * blocks + 5
    while left:
        left -= len(await reader.read(1 << 20))
    print(f"{len(block) * blocks / 1e6 / (time.monotonic() - began):.0f} MB/s through the proxy")
    writer.close()


async def test_a_slow_client_holds_the_engine_back(world: World) -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()
                sent += 1 << 16
        except ConnectionError:
            return

    await world.start(flood)
    _, writer = await asyncio.open_unix_connection(str(world.folder / "run" / "docker.sock"), limit=1 << 16)
    writer.write(b"GET /logs HTTP/1.1\r\nHost: d\r\n\r\n")
    seen = -1
    async with asyncio.timeout(20):
        while seen != sent:
            seen = sent
            await asyncio.sleep(0.2)
    assert 0 < sent < 8 << 20
    writer.transport.abort()


async def test_a_client_that_leaves_cancels_its_request(world: World) -> None:
    left = asyncio.Event()

    async def events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await reader.read()
        left.set()
        writer.close()

    await world.start(events)
    reader, writer = await world.connect()
    writer.write(b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.close()
    async with asyncio.timeout(5):
        await left.wait()
        while world.clients:
            await asyncio.sleep(0.01)


async def test_a_malformed_request_costs_its_own_connection_only(world: World) -> None:
    async def ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")

    await world.start(ping)
    good_reader, good = await world.connect()
    bad_reader, bad = await world.connect()
    bad.write(b"\x00\x01garbage\r\n\r\n")
    assert (await bad_reader.read()).startswith(b"HTTP/1.1 400 ")
    for _ in range(3):
        good.write(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        await good_reader.readuntil(b"\r\n\r\n")
        assert await good_reader.readexactly(2) == b"OK"
    good.close()
    bad.close()


async def test_a_start_settles_ports_before_its_answer(world: World) -> None:
    async def started(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        assert world.settled == 0
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    await world.start(started)
    reader, writer = await world.connect()
    writer.write(b"POST /containers/a/start HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    assert world.settled == 1
    writer.close()
