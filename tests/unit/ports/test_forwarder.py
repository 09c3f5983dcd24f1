"""Listeners with real sockets; streams lead to real servers of this host."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proa.link.loopback import Loopback
from proa.link.pool import LinkPool
from proa.model.events import EventKind
from proa.model.problem import Problem
from proa.ports.forwarder import PortForwarder
from proa.ports.planner import Binding, Key
from proa.system.tasks import Tasks
from tests.support.native import NativeAgent, native_agent


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[NativeAgent]:
    with native_agent(tmp_path) as agent:
        yield agent


class Said:
    """What the forwarder said, and who else of ours holds a port."""

    def __init__(self) -> None:
        self.events: list[tuple[EventKind, str]] = []
        self.others: dict[int, str] = {}

    def emit(self, kind: EventKind, message: str, *, done: str = "", problem: Problem | None = None) -> None:
        self.events.append((kind, message))

    def holder(self, key: Key) -> str | None:
        return self.others.get(key.host_port)


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
async def forwarder(agent: NativeAgent, said: Said) -> AsyncIterator[PortForwarder]:
    tasks = Tasks("test")
    pool = LinkPool(Loopback("127.0.0.1", agent.port), agent.secret, tasks)
    forwarder = PortForwarder("test", pool.open, said.emit, said.holder)
    yield forwarder
    await forwarder.close()
    await pool.close()
    await tasks.close()


async def hash_server() -> tuple[asyncio.Server, str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(hashlib.sha256(await reader.read()).hexdigest().encode())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=512)
    return server, f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}"


def binding(host_ip: str, port: int, *targets: str, protocol: str = "tcp") -> dict[Key, Binding]:
    key = Key(host_ip, port, protocol)
    return {key: Binding(key, "web", "id", 80, targets)}


async def hashed(address: str, port: int, data: bytes) -> str:
    reader, writer = await asyncio.open_connection(address, port)
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer.decode()


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
async def test_half_close_and_every_byte_on_every_address(forwarder: PortForwarder, address: str) -> None:
    server, target = await hash_server()
    port = free_port(address)
    await forwarder.apply(binding(address, port, target))
    data = os.urandom(2 << 20)
    reach = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    async with server:
        assert await hashed(reach, port, data) == hashlib.sha256(data).hexdigest()


async def test_two_hundred_connections_at_once(forwarder: PortForwarder) -> None:
    server, target = await hash_server()
    port = free_port()
    await forwarder.apply(binding("127.0.0.1", port, target))
    async with server:
        data = [os.urandom(10_000) for _ in range(200)]
        found = await asyncio.gather(*(hashed("127.0.0.1", port, item) for item in data))
        assert found == [hashlib.sha256(item).hexdigest() for item in data]


async def test_the_second_target_serves_where_the_first_refuses(forwarder: PortForwarder) -> None:
    server, target = await hash_server()
    port = free_port()
    await forwarder.apply(binding("127.0.0.1", port, f"tcp:127.0.0.1:{free_port()}", target))
    async with server:
        assert await hashed("127.0.0.1", port, b"x") == hashlib.sha256(b"x").hexdigest()


async def test_a_target_that_refuses_resets_the_client(forwarder: PortForwarder) -> None:
    port = free_port()
    await forwarder.apply(binding("127.0.0.1", port, f"tcp:127.0.0.1:{free_port()}"))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_a_port_that_another_machine_holds_names_that_machine(
    forwarder: PortForwarder, said: Said
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said.others[port] = "the container 'web' of the machine 'work'"
        await forwarder.apply(binding("127.0.0.1", port, "tcp:127.0.0.1:1"))
        (row,) = forwarder.table()
        assert row.problem is not None
        assert row.problem.why == "by the container 'web' of the machine 'work'"


async def test_a_taken_port_names_its_owner_and_a_free_one_and_is_taken_over(
    forwarder: PortForwarder, said: Said
) -> None:
    server, target = await hash_server()
    stranger = socket.socket()
    stranger.bind(("127.0.0.1", 0))
    stranger.listen()
    port = stranger.getsockname()[1]
    await forwarder.apply(binding("127.0.0.1", port, target))
    (row,) = forwarder.table()
    assert row.problem is not None and row.problem.code == "port-taken"
    assert f"pid {os.getpid()}" in row.problem.why
    assert "is free" in row.problem.hint
    stranger.close()
    async with server, asyncio.timeout(10):
        while forwarder.table()[0].problem is not None:
            await asyncio.sleep(0.02)
        assert await hashed("127.0.0.1", port, b"x") == hashlib.sha256(b"x").hexdigest()
    assert [kind for kind, _ in said.events] == [EventKind.PORT] * 2, "once taken, once bound"
    assert "is bound now" in said.events[-1][1]


async def test_a_removed_port_is_given_back_and_open_connections_stay(forwarder: PortForwarder) -> None:
    server, target = await hash_server()
    port = free_port()
    await forwarder.apply(binding("127.0.0.1", port, target))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"half")
    await asyncio.sleep(0)
    async with server:
        for _ in range(50):  # the connection reaches its target before the port goes
            await asyncio.sleep(0.01)
        await forwarder.apply({})
        assert forwarder.table() == ()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        writer.write_eof()
        assert await reader.read() == hashlib.sha256(b"half").hexdigest().encode()
    writer.close()


async def test_a_container_that_came_back_elsewhere_keeps_its_port(forwarder: PortForwarder) -> None:
    server, target = await hash_server()
    port = free_port()
    await forwarder.apply(binding("127.0.0.1", port, f"tcp:127.0.0.1:{free_port()}"))
    await forwarder.apply(binding("127.0.0.1", port, target))
    async with server:
        assert await hashed("127.0.0.1", port, b"x") == hashlib.sha256(b"x").hexdigest()


async def test_addresses_of_others_and_udp_are_said(forwarder: PortForwarder) -> None:
    want = binding("203.0.113.7", free_port(), "tcp:127.0.0.1:1")
    want |= binding("127.0.0.1", 5353, "tcp:127.0.0.1:1", protocol="udp")
    await forwarder.apply(want)
    codes = {row.problem.code for row in forwarder.table() if row.problem is not None}
    assert codes == {"address-not-here", "udp-not-yet"}
