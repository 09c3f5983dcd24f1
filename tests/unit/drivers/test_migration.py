"""Memory images of a real QEMU: saved, loaded, and refused where they are damaged. No guest runs in it."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proa.drivers.base import RAM_FILE, STATE_FILE, MemoryImages
from proa.drivers.qemu import migration
from proa.model.errors import ProaError
from proa.system.locks import is_held
from tests.support.qemus import World

MIB = 1 << 20


@pytest.fixture(params=[MemoryImages.SHARED, MemoryImages.STREAMED])
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    world = World(tmp_path, request.param)
    (tmp_path / "image").mkdir()
    yield world
    await world.close()


def is_shared(world: World) -> bool:
    return world.driver.capabilities.memory_images is MemoryImages.SHARED


async def saved(world: World) -> Path:
    hypervisor = await world.boot()
    await hypervisor.resume()  # a moment of firmware: what never ran is no guest
    await hypervisor.pause()
    folder = world.folder / "image"
    await hypervisor.save(folder)
    await hypervisor.quit()
    return folder


async def test_saved_and_restored_paused(world: World) -> None:
    folder = await saved(world)
    names = {STATE_FILE, RAM_FILE} if is_shared(world) else {STATE_FILE}
    assert {path.name for path in folder.iterdir()} == names
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
    if is_shared(world):
        assert (folder / RAM_FILE).stat().st_size == 128 * MIB
        assert (folder / STATE_FILE).stat().st_size < 4 * MIB
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    restored = await world.restore(folder)
    assert await restored.is_paused()
    assert await restored.has_guest()
    assert is_held(world.folder / "lock")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "it is only read"


async def test_what_was_saved_can_go_on_as_if_nothing_had_been(world: World) -> None:
    hypervisor = await world.boot()
    await hypervisor.save(world.folder / "image")
    await hypervisor.resume()
    assert not await hypervisor.is_paused()
    await hypervisor.pause()
    assert await hypervisor.is_paused()


async def test_a_restored_guest_goes_on_with_the_log_that_has_its_boot(world: World) -> None:
    folder = await saved(world)
    console = world.folder / "console.log"
    console.write_text("booted\n")
    restored = await world.restore(folder)
    assert console.read_text().startswith("booted\n")
    await restored.quit()
    await restored.detach()
    await world.boot()
    assert console.with_name("console.log.1").read_text().startswith("booted\n")


async def test_a_guest_that_never_ran_is_none(world: World) -> None:
    assert not await (await world.boot()).has_guest()


async def test_memory_holds_what_the_image_held(world: World) -> None:
    if not is_shared(world):
        return
    folder = await saved(world)
    with (folder / RAM_FILE).open("r+b") as ram:
        ram.seek(64 * MIB)
        ram.write(b"mark" * 1024)
    restored = await world.restore(folder)
    assert restored._memory is not None
    assert os.pread(restored._memory, 4096, 64 * MIB) == b"mark" * 1024
    assert restored.memory_in_use() < 64 * MIB
    pid = restored.pid
    await restored.detach()
    world.booted.remove(restored)
    adopted = await world.driver.adopt(
        "m", world.runtime, world.folder / "lock", world.folder / "console.log"
    )
    assert adopted is not None and adopted.pid == pid and adopted._memory is not None
    world.booted.append(adopted)
    assert os.pread(adopted._memory, 4, 64 * MIB) == b"mark"


@pytest.mark.parametrize("keep", [0, 100, 20_000])
async def test_a_state_that_was_cut_off_is_refused_and_nothing_is_left(world: World, keep: int) -> None:
    folder = await saved(world)
    os.truncate(folder / STATE_FILE, keep)
    with pytest.raises(ProaError) as raised:
        await world.restore(folder)
    assert raised.value.code == "memory-load-failed"
    assert not is_held(world.folder / "lock")


async def test_a_machine_of_another_size_is_refused(world: World) -> None:
    if not is_shared(world):
        return  # a mapped one QEMU 10.0 loads all the same: the fingerprint has the size
    folder = await saved(world)
    with pytest.raises(ProaError) as raised:
        await world.restore(folder, memory=256 * MIB)
    assert raised.value.code == "memory-load-failed"
    assert not is_held(world.folder / "lock")


async def test_an_image_of_the_other_kind_is_refused(world: World) -> None:
    folder = await saved(world)
    other = MemoryImages.STREAMED if is_shared(world) else MemoryImages.SHARED
    with pytest.raises(ProaError) as raised:
        await World(world.folder, other).restore(folder)
    assert raised.value.code == "memory-load-failed"


async def test_a_hypervisor_that_is_killed_while_it_saves_is_said(world: World) -> None:
    hypervisor = await world.boot()
    os.kill(hypervisor.pid, 9)
    with pytest.raises(ProaError):
        await asyncio.wait_for(hypervisor.save(world.folder / "image"), 15)


async def test_too_little_memory_keeps_the_image(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = await saved(world)
    monkeypatch.setattr("proa.drivers.qemu.driver.available_memory", lambda: -1)
    with pytest.raises(ProaError) as raised:
        await world.restore(folder)
    assert raised.value.code == "memory-short"
    assert not is_held(world.folder / "lock")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_what_the_disk_says_of_a_save_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    hypervisor = await world.boot()
    monkeypatch.setattr(migration.os, "fsync", full)
    with pytest.raises(ProaError) as raised:
        await hypervisor.save(world.folder / "image")
    assert raised.value.code == {errno.ENOSPC: "disk-full", errno.EIO: "disk-error"}[number]
    monkeypatch.undo()
    await hypervisor.resume()
    assert not await hypervisor.is_paused()


async def test_a_full_disk_is_said_of_qemus_own_writes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full refuses every write: here it is QEMU that meets it."""
    hypervisor = await world.boot()
    monkeypatch.setattr(migration, "_create", lambda path: os.open("/dev/full", os.O_WRONLY))
    monkeypatch.setattr(migration, "_copy_out", lambda memory, path: None)
    with pytest.raises(ProaError) as raised:
        await hypervisor.save(world.folder / "image")
    assert raised.value.code in ("disk-full", "memory-save-failed")
    await hypervisor.resume()
    assert not await hypervisor.is_paused()


async def test_the_fingerprint_tells_machines_apart(world: World) -> None:
    with await world.spec() as spec:
        one = world.driver.fingerprint(spec)
    with await world.spec(runtime=Path("/elsewhere"), name="other") as spec:
        assert world.driver.fingerprint(spec) == one, "places and names are not the machine"
    for change in ({"cpus": 2}, {"memory": 256 * MIB}, {"command_line": "other"}):
        with await world.spec(**change) as spec:
            assert world.driver.fingerprint(spec) != one
