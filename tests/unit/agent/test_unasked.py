"""Starts that no command asked for, as scripts: what the record says, what is asked, what happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from proa.agent.unasked import UnaskedStart
from proa.machine.machine import Machine
from proa.machine.store import MachineRecord, MachineStore
from proa.model.errors import ProaError
from proa.model.machine import MachineOptions
from proa.system.paths import Places
from proa.system.processes import boot_id
from proa.system.tasks import Tasks


class FakeMachine:
    """What a start and a stop leave, without a hypervisor."""

    name = "default"

    def __init__(self, store: MachineStore) -> None:
        self.session: object | None = None
        self.starts = 0
        self.fails = False
        self.can_suspend = True
        self.gate = asyncio.Event()
        self._store = store

    async def start(self, say: Any) -> None:
        self.starts += 1
        say("hypervisor", "booting", None)
        await self.gate.wait()
        if self.fails:
            raise ProaError("image-missing", "there is no guest image")
        self.session = object()
        self._remember("running")

    async def suspend(self, say: Any) -> None:
        if not self.can_suspend:
            raise ProaError("cannot-suspend", "this machine cannot be suspended")
        self.session = None
        self._remember("stopped")

    async def stop(self, say: Any) -> None:
        self.session = None
        self._remember("stopped")

    def _remember(self, intent: str) -> None:
        record = msgspec.convert({"intent": intent, "boot_id": boot_id()}, MachineRecord)
        self._store.keep_record(self.name, record)


class World:
    def __init__(self, places: Places) -> None:
        self.places = places
        self.store = MachineStore(places)
        self.store.create(self.store.plan("default", MachineOptions()))
        self.machine = FakeMachine(self.store)
        self.tasks = Tasks("test")

    def agent(self, *, at_login: bool = False, **record: str) -> UnaskedStart:
        """A new agent comes up, and finds this."""
        if record:
            self.store.keep_record("default", msgspec.convert(record, MachineRecord))
        if at_login:
            config = self.places.machine("default").config
            config.write_text("start_at_login = true\n" + config.read_text())
        unasked = UnaskedStart(cast(Machine, self.machine), self.store, self.tasks)
        unasked.note()
        return unasked


@pytest.fixture
async def world(short: Path) -> AsyncIterator[World]:
    places = Places.current({"PROA_HOME": str(short)})
    places.make()
    world = World(places)
    yield world
    await world.tasks.close()


async def test_what_ran_when_the_host_went_down_starts_with_the_first_request(world: World) -> None:
    unasked = world.agent(intent="running", boot_id="earlier")
    unasked.at_login()
    assert world.machine.starts == 0
    requests = [asyncio.create_task(unasked.on_request()) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert world.machine.starts == 1 and not any(request.done() for request in requests)
    requests[0].cancel()  # its client left; the others wait on
    world.machine.gate.set()
    async with asyncio.timeout(20):
        await asyncio.gather(*requests[1:])
    assert world.machine.session is not None
    await unasked.on_request()
    assert world.machine.starts == 1


async def test_what_starts_at_login_waits_for_no_request(world: World) -> None:
    unasked = world.agent(at_login=True)
    world.machine.gate.set()
    unasked.at_login()
    async with asyncio.timeout(20):
        await unasked.on_request()
    assert (world.machine.starts, world.machine.session is not None) == (1, True)


@pytest.mark.parametrize("record", [{}, {"intent": "stopped", "boot_id": "earlier"}])
async def test_a_stopped_machine_stays_stopped(world: World, record: dict[str, str]) -> None:
    unasked = world.agent(**record)
    unasked.at_login()
    await unasked.on_request()
    assert world.machine.starts == 0


async def test_a_stop_of_this_boot_comes_first(world: World) -> None:
    unasked = world.agent(at_login=True, intent="running", boot_id="earlier")
    await world.machine.stop(None)
    unasked.at_login()
    await unasked.on_request()
    world.agent().at_login()  # nor does a later agent start it
    assert world.machine.starts == 0


async def test_a_start_that_failed_is_not_tried_with_every_request(world: World) -> None:
    unasked = world.agent(intent="running", boot_id="earlier")
    world.machine.fails = True
    world.machine.gate.set()
    async with asyncio.timeout(20):
        await unasked.on_request()
        await unasked.on_request()
    assert world.machine.starts == 1


async def test_what_the_end_of_a_session_stopped_starts_when_it_is_used_again(world: World) -> None:
    first = world.agent(intent="running", boot_id=boot_id())
    world.machine.session = object()
    world.machine.can_suspend = False
    await first.stop_until_used()
    assert world.machine.session is None
    world.machine.gate.set()
    second = world.agent()
    async with asyncio.timeout(20):
        await second.on_request()
    assert world.machine.starts == 1


async def test_what_the_end_of_a_session_suspended_is_left_to_its_wake(world: World) -> None:
    first = world.agent(intent="running", boot_id=boot_id())
    world.machine.session = object()
    await first.stop_until_used()
    assert world.machine.session is None
    await world.agent().on_request()
    assert world.machine.starts == 0


async def test_a_config_that_cannot_be_read_starts_nothing(world: World) -> None:
    world.places.machine("default").config.write_text("cpus = ")
    unasked = world.agent(intent="running", boot_id="earlier")
    await unasked.on_request()
    assert world.machine.starts == 0
