"""A restored guest renews its link: another secret, no old stream, and an agent that can be started again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proa.link.control import Control
from proa.link.loopback import Loopback
from proa.link.pool import LinkPool
from proa.model.errors import ProaError
from proa.system.tasks import Tasks
from proa_guest import agent as module
from proa_guest import wire
from tests.support.links import streams

OLD = bytes(range(32))
WAKE = {"op": "wake", "time": 1.0, "seed": "00"}


@dataclass
class World:
    """The agent in this process, listening; `mended` is what it was asked to mend."""

    config: Path
    port: int
    tasks: Tasks
    mended: list[dict[str, object]]

    def pool(self, secret: bytes) -> LinkPool:
        return LinkPool(Loopback("127.0.0.1", self.port), secret, self.tasks, parked=0)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    mended: list[dict[str, object]] = []

    def mend(content: dict[str, object], *, elsewhere: bool) -> int:
        mended.append(content)  # in earnest it would set this host's clock
        return 3

    config = {
        "link": {"address": "127.0.0.1", "port": 0, "netns": None, "secret": OLD.hex()},
        "engine_socket": str(tmp_path / "engine.sock"),
        "init_state": str(tmp_path / "init.json"),
        "logs": str(tmp_path),
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    path.chmod(0o600)
    agent = module.Agent(config, str(path))
    monkeypatch.setattr(agent.sleeper, "mend", mend)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: module.Stream(agent), "127.0.0.1", 0)
    tasks = Tasks("test")
    yield World(path, server.sockets[0].getsockname()[1], tasks, mended)
    await tasks.close()
    server.close()


async def speaking(pool: LinkPool, tasks: Tasks) -> Control:
    control = Control(pool, tasks)
    await control.wait_until(lambda status: True, 10)
    return control


@pytest.mark.parametrize("in_place", [True, False])
async def test_a_wake_renews_the_link(world: World, in_place: bool) -> None:
    if not in_place:  # what another agent wrote may be of another length
        world.config.write_text(world.config.read_text() + "\n")
    before = world.config.stat().st_ino
    pool = world.pool(OLD)
    control = await speaking(pool, world.tasks)
    assert control.can_sleep
    other = await pool.open("control")
    reader, _ = streams(other)
    await reader.readexactly(4)
    nonce = wire.new_nonce()
    answer = await control.order({**WAKE, "nonce": nonce})
    assert answer["ended"] == 3 and world.mended[0]["time"] == 1.0
    assert answer["due"] is True, "containers may stand still since an agent that was here before"
    assert answer["engine"] == "starting", "it says how the engine answered, and here is none"
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(reader.read(), 10)
    assert (await control.order({"op": "status"}))["agent"] == "2", "the stream that woke it goes on"

    with pytest.raises(ProaError):
        await world.pool(OLD).open("control", timeout=2)
    fresh = wire.renewed(OLD, nonce)
    pool.renew(fresh)
    (await pool.open("control")).abort()
    kept = json.loads(world.config.read_text())
    assert kept["link"]["secret"] == fresh.hex(), "for an agent that is started after this one"
    assert world.config.stat().st_mode & 0o077 == 0
    assert (world.config.stat().st_ino == before) == in_place
    await control.close()
    await pool.close()


async def test_the_engine_is_asked_unless_the_host_knows_better(world: World) -> None:
    """A request that the machine is woken for shows whether it answers, and need not wait for another."""
    asked = 0

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /_ping ")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nOK")
        writer.close()

    served = await asyncio.start_unix_server(engine, world.config.parent / "engine.sock")
    pool = world.pool(OLD)
    control = await speaking(pool, world.tasks)
    for more, state, times in (({"ask": False}, "", 0), ({"ask": True}, "ready", 1), ({}, "ready", 2)):
        answer = await control.order({**WAKE, "nonce": wire.new_nonce(), **more})
        assert (answer["engine"], asked) == (state, times)
    await control.close()
    await pool.close()
    served.close()


async def test_a_wake_without_a_nonce_changes_nothing(world: World) -> None:
    pool = world.pool(OLD)
    control = await speaking(pool, world.tasks)
    with pytest.raises(ProaError) as raised:
        await control.order(WAKE)
    assert raised.value.code == "guest-refused"
    assert world.mended == []
    (await world.pool(OLD).open("control")).abort()
    await control.close()
    await pool.close()


async def test_an_order_that_fails_says_why(world: World) -> None:
    pool = world.pool(OLD)
    control = await speaking(pool, world.tasks)
    with pytest.raises(ProaError) as raised:
        await control.order({"op": "halt", "timeout": 0})
    assert raised.value.code == "guest-refused" and "timeout" in raised.value.why
    await control.close()
    await pool.close()


async def test_a_pool_parks_as_many_as_it_is_told(world: World) -> None:
    pool = world.pool(OLD)
    assert not pool._parked
    pool.park(2)
    async with asyncio.timeout(10):
        while len(pool._parked) < 2:  # the keeper has no event for a test
            await asyncio.sleep(0.01)
    await pool.close()


async def test_a_parked_stream_may_be_for_one_use(world: World) -> None:
    pool = world.pool(OLD)
    pool.park(1, again=False)
    async with asyncio.timeout(10):
        while not pool._parked:
            await asyncio.sleep(0.01)
    (await pool.open("control")).abort()
    assert pool._want == 0
    (await pool.open("control")).abort()
    assert not pool._parked
    await pool.close()


def test_a_renewed_secret_is_another_for_each_nonce() -> None:
    one, two = (wire.renewed(OLD, wire.new_nonce()) for _ in range(2))
    assert len({OLD, one, two}) == 3 and len(one) == 32


async def test_a_name_that_cannot_be_looked_up_is_said_to_be_so(world: World) -> None:
    pool = world.pool(OLD)
    with pytest.raises(ProaError) as raised:
        await pool.open("tcp:nowhere.invalid:80")
    assert raised.value.code == "link-refused" and "name" in raised.value.why.lower(), raised.value.why
    await pool.close()
