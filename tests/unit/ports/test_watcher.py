"""The watcher against a small real HTTP server that plays the engine's two answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proa.link.loopback import Loopback
from proa.link.pool import LinkPool
from proa.model.errors import ProaError
from proa.ports.engine_api import EngineApi
from proa.ports.planner import Binding, Key
from proa.ports.watcher import PortWatcher
from proa.system.tasks import Tasks
from tests.support.native import native_agent


class Engine:
    """GET /containers/json and GET /events, as the engine frames them: chunked."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.listeners: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        if b"/events" in head:
            self.listeners.add(writer)
            return
        rows = [
            {
                "Id": "x",
                "Names": ["/c"],
                "Ports": [{"IP": "127.0.0.1", "PublicPort": p, "PrivatePort": 80, "Type": "tcp"}],
            }
            for p in self.ports
        ]
        body = (
            b"OK"
            if b"_ping" in head
            else json.dumps({"Version": "1"} if b"/version" in head else rows).encode()
        )
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        writer.close()

    def tell(self) -> None:
        line = b'{"Type":"container","Action":"start"}\n'
        for writer in self.listeners:
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[tuple[Engine, EngineApi, Tasks]]:
    engine, tasks = Engine(), Tasks("test")
    with native_agent(tmp_path) as agent:
        server = await asyncio.start_unix_server(engine.serve, str(agent.engine))
        pool = LinkPool(Loopback("127.0.0.1", agent.port), agent.secret, tasks)
        yield engine, EngineApi(lambda: pool.open("engine")), tasks
        await tasks.close()
        server.close()


async def test_answers_are_read_and_broken_ones_refused(world: tuple[Engine, EngineApi, Tasks]) -> None:
    _, api, _ = world
    await api.ping()
    assert await api.version() == "1"
    assert await api.get_json("/containers/json") == []


async def test_a_look_that_began_after_the_call_settles_it(world: tuple[Engine, EngineApi, Tasks]) -> None:
    engine, api, tasks = world
    seen: list[set[int]] = []

    async def apply(want: dict[Key, Binding]) -> None:
        seen.append({key.host_port for key in want})

    watcher = PortWatcher(api, apply, tasks)
    async with asyncio.timeout(10):
        await watcher.settled()
        assert seen[-1] == set()
        engine.ports = [81]
        await watcher.settled()
        assert seen[-1] == {81}
        engine.ports = [81, 82]
        while not engine.listeners:
            await asyncio.sleep(0.01)
        engine.tell()
        while seen[-1] != {81, 82}:
            await asyncio.sleep(0.01)
        engine.ports = []
        for writer in list(engine.listeners):
            writer.transport.abort()  # the events' stream is lost: it looks again by itself
        engine.listeners.clear()
        while seen[-1] != set():
            await asyncio.sleep(0.01)
    await watcher.close()


async def test_an_engine_that_is_away_is_an_error_and_not_an_empty_list() -> None:
    async def nobody() -> object:
        raise ProaError("link-down", "the guest does not answer")

    with pytest.raises(ProaError):
        await EngineApi(nobody).get_json("/containers/json")  # type: ignore[arg-type]
