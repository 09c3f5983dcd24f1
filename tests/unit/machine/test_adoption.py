"""A hypervisor that outlived its agent is taken over, or ended, and either is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from proa.drivers.base import Driver
from proa.machine.adoption import TakenOver, take_lock, take_over
from proa.machine.sleep.images import ImageFolder
from proa.machine.sleep.order import Step
from proa.model.errors import ProaError
from proa.model.events import EventKind
from proa.system.locks import FileLock
from proa.system.paths import MachinePaths, Places


class World:
    """A driver with one hypervisor, which is also that hypervisor."""

    pid = 42

    def __init__(self, folder: Path) -> None:
        places = Places.current({"PROA_HOME": str(folder / "h")})
        places.make()
        self.paths: MachinePaths = places.machine("m")
        for place in (self.paths.folder, self.paths.runtime):
            place.mkdir()
        self.paths.link_key.write_bytes(b"key")
        self.there = True
        self.paused: bool | ProaError = False
        self.has_run = True
        self.images = ImageFolder(self.paths.folder, self.paths.data_disk)
        self.strays = 0
        self.calls: list[str] = []
        self.held: FileLock | None = None
        self.said: list[tuple[EventKind, str]] = []

    def emit(self, kind: EventKind, message: str, *, done: str = "", problem: Any = None) -> None:
        self.said.append((kind, message))

    async def adopt(self, *where: object) -> World | None:
        return self if self.there else None

    async def end_stray(self, *where: object) -> None:
        self.strays += 1
        if self.held is not None:
            self.held.release()

    async def is_paused(self) -> bool:
        if isinstance(self.paused, ProaError):
            raise self.paused
        return self.paused

    async def has_guest(self) -> bool:
        return self.has_run

    async def resume(self) -> None:
        self.calls.append("resume")

    async def quit(self) -> None:
        self.calls.append("quit")

    async def detach(self) -> None:
        self.calls.append("detach")

    async def take_over(self) -> TakenOver | None:
        return await take_over(cast(Driver, self), self.paths, self.images, self.emit)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_what_runs_is_taken_over_with_its_secret(world: World) -> None:
    found = await world.take_over()
    assert found is not None and (found.hypervisor, found.secret) == (world, b"key")
    assert world.calls == [] and world.said == [(EventKind.STATE, "taken over by a new agent, pid 42")]


async def test_what_cannot_be_asked_is_ended(world: World) -> None:
    world.there = False
    assert await world.take_over() is None
    assert world.strays == 1 and world.said[0][0] is EventKind.REPAIR


@pytest.mark.parametrize("how", ["half-started", "no key", "silent"])
async def test_what_is_of_no_use_is_ended_in_order(world: World, how: str) -> None:
    if how == "half-started":
        world.paused, world.has_run = True, False
    elif how == "no key":
        world.paths.link_key.unlink()
    else:
        world.paused = ProaError("hypervisor-silent", "QEMU does not answer")
    assert await world.take_over() is None
    assert world.calls == ["quit", "detach"]
    assert [kind for kind, _ in world.said] == [EventKind.REPAIR]


async def test_a_guest_that_was_being_saved_goes_on(world: World) -> None:
    world.paused = True
    world.images.partial.mkdir()
    found = await world.take_over()
    assert found is not None and found.todo == (Step.RESUME, Step.THAW)
    assert world.calls == ["resume"]


async def test_one_that_was_saved_sleeps(world: World) -> None:
    world.paused = True
    world.images.ready.mkdir()
    assert await world.take_over() is None
    assert world.calls == ["quit", "detach"] and world.images.exists()


async def test_a_lock_is_taken_from_a_stray_that_could_be_ended(world: World) -> None:
    world.held = FileLock.try_acquire(world.paths.lock)
    lock = await take_lock(cast(Driver, world), world.paths)
    assert lock is not None and world.strays == 1
    lock.release()


async def test_a_strangers_lock_stays_with_the_stranger(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proa.machine.adoption.LOCK_TIMEOUT", 0.1)
    stranger = FileLock.try_acquire(world.paths.lock)
    assert stranger is not None
    assert await take_lock(cast(Driver, world), world.paths) is None
    stranger.release()
