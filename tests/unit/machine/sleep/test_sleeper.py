"""The shell around the order: real image files, a hypervisor and a guest that fail at any step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from proa.drivers.base import RAM_FILE, STATE_FILE, BootSpec, Capabilities, ExitReason, MemoryImages
from proa.machine.sleep import sleeper as module
from proa.machine.sleep.images import ImageFolder, Kind
from proa.machine.sleep.order import SAVE, Step
from proa.machine.sleep.sleeper import MustBootCold, Sleeper
from proa.model.errors import ProaError
from proa.system.paths import MachinePaths, Places

MARK = {"hypervisor": "H 1"}


@dataclass
class FakeMachine:
    """A hypervisor and its guest's control stream, with a plan of what goes wrong."""

    fails: str = ""  # the name of the call that fails
    after: bool = False  # it fails after it had its effect
    error: type[BaseException] = ProaError
    paused: bool = False
    frozen: bool = False
    calls: list[str] = field(default_factory=list)
    pid: int = 1
    due: bool = True

    def __post_init__(self) -> None:
        self.ended: asyncio.Future[ExitReason] = asyncio.get_running_loop().create_future()

    def call(self, name: str, effect: Callable[[], None]) -> None:
        self.calls.append(name)
        if self.fails == name and not self.after:
            raise self._failure()
        effect()
        if self.fails == name:
            raise self._failure()

    def _failure(self) -> BaseException:
        self.fails = ""  # once: what undoes may use the same call
        return ProaError("test", "told to fail") if self.error is ProaError else self.error()

    def set(self, **values: object) -> Callable[[], None]:
        return lambda: self.__dict__.update(values)

    # the hypervisor
    async def pause(self) -> None:
        self.call("pause", self.set(paused=True))

    async def resume(self) -> None:
        self.call("resume", self.set(paused=False))

    async def save(self, folder: Path) -> None:
        def write() -> None:
            (folder / STATE_FILE).write_bytes(b"devices")
            (folder / RAM_FILE).write_bytes(b"memory")

        self.call("save", write)

    async def quit(self, timeout: float = 10) -> None:
        self.call("quit", lambda: None if self.ended.done() else self.ended.set_result(ExitReason.QUIT))

    async def detach(self) -> None:
        self.calls.append("detach")

    def memory_in_use(self) -> int:
        return 6

    # the guest's control stream
    async def order(self, content: dict[str, object], timeout: float = 0) -> dict[str, Any]:
        name = str(content["op"])
        self.call(
            name, {"freeze": self.set(frozen=True), "thaw": self.set(frozen=False)}.get(name, lambda: None)
        )
        return {}


@dataclass
class FakeSession:
    machine: FakeMachine
    secret: bytes = b"old"
    engine_version: str = "26"
    started_with: str = "cold"
    brought_back: bool = True
    goes_on: bool = False
    awaited: bool = False
    engine_answered: bool = False
    asked: bool = False
    fingerprint: dict[str, str] = field(default_factory=lambda: MARK)
    served: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.served.set()

    @property
    def hypervisor(self) -> FakeMachine:
        return self.machine

    @property
    def control(self) -> FakeMachine:
        return self.machine

    async def close(self) -> None:
        await self.machine.detach()


class FakeDriver:
    name = "fake"
    capabilities = Capabilities(loopback_link=True, memory_images=MemoryImages.SHARED)

    def __init__(self) -> None:
        self.machines: list[FakeMachine] = []
        self.plan: list[ProaError | None] = []
        self.due = True

    async def restore(self, spec: object, folder: Path, progress: object) -> FakeMachine:
        assert (folder / STATE_FILE).exists()
        if self.plan and (error := self.plan.pop(0)) is not None:
            raise error
        self.machines.append(FakeMachine(paused=True, frozen=True, due=self.due))
        return self.machines[-1]


@dataclass
class World:
    paths: MachinePaths
    driver: FakeDriver
    sleeper: Sleeper

    @property
    def images(self) -> ImageFolder:
        return self.sleeper.images

    async def asleep(self) -> World:
        await self.sleeper.save(FakeSession(FakeMachine()), "suspended")  # type: ignore[arg-type]
        return self

    async def wake(self, mark: dict[str, str] = MARK, *, awaited: bool = False) -> FakeSession:
        spec: BootSpec = None  # type: ignore[assignment]  (the fake driver does not look)
        return await self.sleeper.restore(spec, mark, awaited=awaited)  # type: ignore[return-value]


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    places = Places.current({"PROA_HOME": str(tmp_path)})
    places.make()
    paths = places.machine("m")
    paths.folder.mkdir()
    paths.runtime.mkdir()
    paths.data_disk.write_bytes(b"disk")
    driver = FakeDriver()

    async def mend(
        session: FakeSession, paths: MachinePaths, *, everywhere: bool, ask: bool
    ) -> module.Mended:
        assert not session.machine.paused and session.secret == b"old"
        session.asked = ask
        session.machine.call("wake everywhere" if everywhere else "wake", lambda: None)
        return module.Mended(engine_answered=ask, due=session.machine.due)

    def session(name: str, hypervisor: FakeMachine, secret: bytes, parked: int) -> FakeSession:
        return FakeSession(hypervisor, secret)

    monkeypatch.setattr(module, "mend_guest", mend)
    monkeypatch.setattr(module, "Session", session)
    yield World(paths, driver, Sleeper("m", paths, driver))  # type: ignore[arg-type]


def left(world: World) -> set[str]:
    return {path.name for path in world.paths.folder.iterdir()} - {"data.qcow2"}


async def test_a_round(world: World) -> None:
    machine = FakeMachine()
    await world.sleeper.save(FakeSession(machine), "suspended")  # type: ignore[arg-type]
    assert machine.calls == ["freeze", "sync", "pause", "save", "quit"]
    assert left(world) == {"memory.ready"}
    session = await world.wake()
    assert session.machine.calls == ["resume", "wake everywhere", "thaw"]
    assert (session.started_with, session.engine_version) == ("memory-image", "26")
    assert left(world) == {"memory.used"} and world.sleeper.asleep() is None


async def test_a_stopped_one_brings_its_containers_back(world: World) -> None:
    await world.sleeper.save(FakeSession(FakeMachine()), "stopped")  # type: ignore[arg-type]
    assert (await world.wake()).machine.calls == ["resume", "wake", "bring-back"]


@pytest.mark.parametrize("kind", ["stopped", "suspended"])
async def test_where_no_container_waits_nothing_is_asked(world: World, kind: Kind) -> None:
    await world.sleeper.save(FakeSession(FakeMachine()), kind)  # type: ignore[arg-type]
    world.driver.due = False
    session = await world.wake()
    assert session.machine.calls == ["resume", "wake everywhere" if kind == "suspended" else "wake"]
    assert not session.brought_back, "no port has to be bound for it"
    assert not session.served.is_set(), "who waits for the machine comes first"
    assert not session.goes_on


async def test_who_waits_comes_first_but_for_the_folders_of_containers(world: World) -> None:
    session = await (await world.asleep()).wake()
    assert not session.served.is_set()
    assert session.goes_on, "their folders are asked for at once"
    assert not session.brought_back, "and their ports were bound all the time"


@pytest.mark.parametrize("awaited", [False, True])
async def test_a_request_has_the_guest_for_itself(world: World, awaited: bool) -> None:
    session = await (await world.asleep()).wake(awaited=awaited)
    assert session.awaited == awaited
    assert session.asked == session.engine_answered == (not awaited)


async def test_containers_that_are_brought_back_are_looked_at_at_once(world: World) -> None:
    await world.sleeper.save(FakeSession(FakeMachine()), "stopped")  # type: ignore[arg-type]
    session = await world.wake()
    assert session.served.is_set() and not session.goes_on


@pytest.mark.parametrize("call", ["freeze", "sync", "pause", "save", "quit"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [ProaError, asyncio.CancelledError])
async def test_a_failed_save_leaves_it_running(
    world: World, call: str, after: bool, error: type[BaseException]
) -> None:
    if call == "quit" and after:
        return  # then it is gone, and sleeps
    machine = FakeMachine(fails=call, after=after, error=error)
    with pytest.raises(error):
        await world.sleeper.save(FakeSession(machine), "suspended")  # type: ignore[arg-type]
    assert (machine.paused, machine.frozen, machine.ended.done()) == (False, False, False)
    assert left(world) == set(), "no file is left over"


@pytest.mark.parametrize("name", ["begin", "complete", "mark_ready"])
async def test_what_the_disk_refuses_leaves_it_running(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(*words: object, **values: object) -> None:
        raise ProaError("disk-full", "cannot write")

    monkeypatch.setattr(world.images, name, full)
    machine = FakeMachine()
    with pytest.raises(ProaError):
        await world.sleeper.save(FakeSession(machine), "suspended")  # type: ignore[arg-type]
    assert (machine.paused, machine.frozen, machine.ended.done()) == (False, False, False)
    assert left(world) == set()


async def test_without_room_nothing_is_begun(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_disk", lambda path: module.MARGIN)
    machine = FakeMachine()
    with pytest.raises(ProaError) as raised:
        await world.sleeper.save(FakeSession(machine), "suspended")  # type: ignore[arg-type]
    assert raised.value.code == "disk-full" and machine.calls == []


async def test_a_strange_machine_boots_cold(world: World) -> None:
    await world.asleep()
    with pytest.raises(MustBootCold, match="H 2"):
        await world.wake({"hypervisor": "H 2"})
    assert left(world) == set() and world.driver.machines == []


async def test_a_load_that_fails_is_tried_twice_and_then_boots_cold(world: World) -> None:
    await world.asleep()
    world.driver.plan = [ProaError("memory-load-failed", "no"), None]
    await world.wake()
    await world.asleep()
    world.driver.plan = [ProaError("memory-load-failed", "no")] * 2
    with pytest.raises(MustBootCold):
        await world.wake()
    assert left(world) == set()


async def test_a_host_without_memory_keeps_the_image(world: World) -> None:
    await world.asleep()
    world.driver.plan = [ProaError("memory-short", "no")]
    with pytest.raises(ProaError) as raised:
        await world.wake()
    assert raised.value.code == "memory-short"
    assert left(world) == {"memory.ready"}
    await world.wake()


@pytest.mark.parametrize("call", ["resume", "wake everywhere", "thaw"])
async def test_a_guest_that_does_not_come_back_is_ended_and_boots_cold(
    world: World, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    await world.asleep()
    restore = world.driver.restore

    async def failing(*words: Any) -> FakeMachine:
        machine = await restore(*words)
        machine.fails = call
        return machine

    monkeypatch.setattr(world.driver, "restore", failing)
    with pytest.raises(MustBootCold):
        await world.wake()
    (machine,) = world.driver.machines
    assert machine.ended.done() and not world.images.exists()


async def test_an_agent_that_ends_leaves_what_runs_to_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.asleep()

    async def cancelled(*words: object, **values: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(module, "mend_guest", cancelled)
    with pytest.raises(asyncio.CancelledError):
        await world.wake()
    (machine,) = world.driver.machines
    assert not machine.ended.done() and machine.calls[-1] == "detach"
    assert left(world) == {"memory.used"}, "which tells the next agent that the guest is to be mended"


async def test_an_image_that_cannot_be_consumed_is_not_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.asleep()
    consume = world.images.consume

    def once() -> None:
        monkeypatch.setattr(world.images, "consume", consume)
        raise ProaError("disk-error", "cannot rename")

    monkeypatch.setattr(world.images, "consume", once)
    with pytest.raises(MustBootCold):
        await world.wake()
    (machine,) = world.driver.machines
    assert machine.calls == ["quit", "detach"], "it never ran"
    assert left(world) == set()


def test_a_driver_that_cannot_says_so(tmp_path: Path) -> None:
    places = Places.current({"PROA_HOME": str(tmp_path)})
    driver = FakeDriver()
    driver.capabilities = replace(driver.capabilities, memory_images=MemoryImages.NONE)
    assert not Sleeper("m", places.machine("m"), driver).can_save  # type: ignore[arg-type]
    assert Step.END is SAVE[-1]


async def test_a_hypervisor_that_dies_in_the_middle_is_not_waited_for(world: World) -> None:
    machine = FakeMachine()

    async def order(content: dict[str, object], timeout: float = 0) -> dict[str, Any]:
        machine.ended.set_result(ExitReason.DIED)
        await asyncio.Event().wait()
        return {}

    machine.order = order  # type: ignore[method-assign]
    with pytest.raises(ProaError) as raised:
        await asyncio.wait_for(world.sleeper.save(FakeSession(machine), "suspended"), 5)  # type: ignore[arg-type]
    assert raised.value.code == "hypervisor-died"
    assert "resume" not in machine.calls and left(world) == set()
