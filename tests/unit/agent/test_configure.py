"""Settings by the agent's API, on a machine that does not run; a running engine is in tests/machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proa.agent.agent import Agent
from proa.agent.client import AgentClient
from proa.agent.configure import _moment
from proa.model.errors import ProaError
from proa.model.machine import MachineOptions
from proa.system.paths import Places


class World:
    def __init__(self, places: Places) -> None:
        self.places = places
        self.client = AgentClient(places)
        self.file = places.machine("work").config

    async def set(self, **changes: Any) -> str:
        named = {key.replace("__", "."): value for key, value in changes.items()}
        answer = await asyncio.to_thread(self.client.configure, "work", named)
        return answer.effect

    async def values(self, *, reveal: bool = False) -> dict[str, Any]:
        found = await asyncio.to_thread(lambda: self.client.config("work", reveal=reveal))
        return {value.key: value.value for value in found}


@pytest.fixture
async def world(short: Path) -> AsyncIterator[World]:
    places = Places.current({"PROA_HOME": str(short)})
    places.make()
    agent = Agent(places)
    await agent.open()
    try:
        await agent.make("work", MachineOptions(memory=512 << 20))
        yield World(places)
    finally:
        await agent.close()


async def test_what_is_set_is_seen_and_taken_away_again(world: World) -> None:
    assert await world.set(registry__mirrors=["https://a.example"], daemon__debug=True) == "start"
    values = await world.values()
    assert values["registry.mirrors"] == ["https://a.example"] and values["daemon.debug"] is True
    assert values["memory"] == "512MiB" and values["cpus"] == 1
    await world.set(registry__mirrors=None, daemon__debug=None)
    values = await world.values()
    assert values["registry.mirrors"] == [] and "daemon.debug" not in values


async def test_two_changes_at_once_are_both_kept(world: World) -> None:
    await asyncio.gather(*(world.set(**{f"daemon__x{number}": number}) for number in range(12)))
    values = await world.values()
    assert [values[f"daemon.x{number}"] for number in range(12)] == list(range(12))


async def test_comments_survive(world: World) -> None:
    world.file.write_text("# mine\n" + world.file.read_text())
    await world.set(memory="600MiB")
    text = world.file.read_text()
    assert text.startswith("# mine\n") and "# The most its disk" in text and 'memory = "600MiB"' in text
    assert world.file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"memory": "1MiB"}, "memory-too-small"),
        ({"memory": 5}, "bad-setting"),
        ({"driver": "magic"}, "driver-unknown"),
        ({"image": "nowhere"}, "image-missing"),
        ({"disk": "10GiB"}, "disk-cannot-shrink"),
        ({"certificates": ["/nowhere.pem"]}, "bad-certificate"),
        ({"daemon.hosts": []}, "setting-not-yours"),
        ({"nothing": 1}, "unknown-setting"),
        ({"daemon.debug": True, "memory": "1MiB"}, "memory-too-small"),
    ],
)
async def test_what_is_refused_changes_nothing(world: World, changes: dict[str, Any], code: str) -> None:
    world.places.machine("work").data_disk.touch()
    before = world.file.read_bytes()
    with pytest.raises(ProaError) as caught:
        await asyncio.to_thread(world.client.configure, "work", changes)
    assert caught.value.code == code
    assert world.file.read_bytes() == before


async def test_a_password_is_shown_only_where_it_is_asked_for(world: World) -> None:
    await world.set(proxy__http="http://me:canary@proxy.example:1")
    assert (await world.values())["proxy.http"] == "http://***@proxy.example:1"
    assert (await world.values(reveal=True))["proxy.http"] == "http://me:canary@proxy.example:1"
    one = await asyncio.to_thread(world.client.setting, "work", "proxy.http")
    assert one.value == "http://me:canary@proxy.example:1"


async def test_a_file_that_cannot_be_read_is_not_written(world: World) -> None:
    world.file.write_text("version = 1\ncpus = = 2\n")
    with pytest.raises(ProaError) as caught:
        await world.set(cpus=1)
    assert caught.value.code == "config-corrupt"
    assert world.file.read_text() == "version = 1\ncpus = = 2\n"


def test_the_engines_time_is_given_back_to_it_as_a_number() -> None:
    assert _moment({"SystemTime": "2026-11-25T03:27:57.513968953Z"}) == "1795577277.513968"
    for odd in ({}, [], {"SystemTime": 3}, {"SystemTime": "soon"}):
        with pytest.raises(ProaError) as caught:
            _moment(odd)
        assert caught.value.code == "engine-silent"
