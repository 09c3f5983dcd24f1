"""The driver against a real QEMU that starts paused: process, monitor and console need no guest."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proa.drivers.base import ExitReason
from proa.drivers.qemu import disks, strays
from proa.drivers.qemu.console import LOG_SIZE, ConsoleLog
from proa.drivers.qemu.driver import QemuDriver
from proa.drivers.qemu.hypervisor import QemuProcess
from proa.drivers.qemu.monitor import forwarded_port
from proa.model.errors import ProaError
from proa.system.locks import is_held
from proa.system.processes import holders
from tests.support.qemus import World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    for hypervisor in world.booted:
        await hypervisor.quit()
        await hypervisor.detach()


async def test_boot_is_paused_with_a_link_port_and_quit_ends_it(world: World) -> None:
    hypervisor = await world.boot()
    assert await hypervisor.is_paused()
    host, port = hypervisor.link_address
    with socket.create_connection((host, port), 5):
        pass
    assert is_held(world.folder / "lock")
    await hypervisor.quit()
    assert hypervisor.ended.result() is ExitReason.QUIT
    assert not is_held(world.folder / "lock")
    await hypervisor.quit()


async def test_another_agent_adopts_what_the_first_let_go(world: World) -> None:
    first = await world.boot()
    await first.detach()
    second = await QemuDriver(world.places).adopt(
        "m", world.runtime, world.folder / "lock", world.folder / "console.log"
    )
    assert second is not None
    world.booted.append(second)
    assert (second.pid, second.link_address, await second.is_paused()) == (
        first.pid,
        first.link_address,
        True,
    )


async def test_a_killed_qemu_is_seen_at_once(world: World) -> None:
    hypervisor = await world.boot()
    os.kill(hypervisor.pid, 9)
    async with asyncio.timeout(3):
        assert await asyncio.shield(hypervisor.ended) is ExitReason.DIED


async def test_a_stranger_is_not_adopted_and_lives(world: World) -> None:
    hypervisor = await world.boot()
    state = world.runtime / "hypervisor.json"
    content = json.loads(state.read_text())
    await hypervisor.quit()
    for change in ({"pid": os.getpid()}, {"version": 9}, {"pid": "x"}):
        state.write_text(json.dumps({**content, **change}))
        assert (
            await world.driver.adopt("m", world.runtime, world.folder / "lock", world.folder / "console.log")
            is None
        )


async def _adopt(world: World) -> QemuProcess | None:
    driver = QemuDriver(world.places)
    return await driver.adopt("m", world.runtime, world.folder / "lock", world.folder / "console.log")


async def test_a_qemu_whose_record_is_lost_is_recognised_and_adopted(world: World) -> None:
    first = await world.boot()
    await first.detach()
    for content in (None, b"{", json.dumps({"version": 9}).encode()):
        state = world.runtime / "hypervisor.json"
        state.unlink() if content is None else state.write_bytes(content)
        found = await _adopt(world)
        assert found is not None
        assert (found.pid, found.link_address, found.accelerator) == (first.pid, first.link_address, "tcg")
        await found.detach()
    world.booted.append(await _adopt(world) or first)


@pytest.mark.parametrize("how", ["its socket is gone", "it hangs", "everything is gone"])
async def test_a_qemu_that_cannot_be_asked_is_proved_and_ended(world: World, how: str) -> None:
    hypervisor = await world.boot()
    await hypervisor.detach()
    if how == "it hangs":
        os.kill(hypervisor.pid, signal.SIGSTOP)
    else:
        (world.runtime / "qmp.sock").unlink()
    if how == "everything is gone":
        shutil.rmtree(world.runtime)
    assert await _adopt(world) is None
    await world.driver.end_stray("m", world.runtime, world.folder / "lock")
    async with asyncio.timeout(5):  # its last thread may end, and close the lock, a moment after its first
        while is_held(world.folder / "lock"):
            await asyncio.sleep(0.02)


async def test_a_stranger_with_our_lock_in_its_hands_is_not_taken_for_a_qemu(world: World) -> None:
    lock = world.folder / "lock"
    lock.touch()
    with lock.open() as file, subprocess.Popen(["sleep", "60"], stdin=file) as stranger:  # noqa: ASYNC220
        assert stranger.pid in [identity.pid for identity in holders(lock)]
        assert strays.find(lock, world.runtime) is None
        await world.driver.end_stray("m", world.runtime, lock)
        assert stranger.poll() is None
        stranger.kill()


async def test_a_guest_that_was_never_paused_for_its_disk_has_no_stall(world: World) -> None:
    hypervisor = await world.boot()
    assert await hypervisor.stall() is None


async def test_a_boot_that_fails_leaves_nothing_and_says_why(world: World) -> None:
    with pytest.raises(ProaError) as caught:
        await world.boot(root=world.folder / "nowhere")
    assert caught.value.layer == "hypervisor"
    assert "nowhere" in caught.value.why
    assert not is_held(world.folder / "lock")
    assert not (world.runtime / "hypervisor.json").exists()


async def test_disks_are_made_grown_and_never_shrunk(tmp_path: Path) -> None:
    disk = tmp_path / "d.qcow2"
    await disks.make(disk, 1 << 30)
    assert disk.stat().st_size < 1 << 20
    await disks.grow(disk, 2 << 30)
    await disks.grow(disk, 1 << 30)
    assert await disks.check(disk) == 2 << 30
    assert [entry.name for entry in tmp_path.iterdir()] == ["d.qcow2"]


async def test_a_disk_with_a_backing_file_or_no_disk_is_refused(tmp_path: Path) -> None:
    base, disk = tmp_path / "base", tmp_path / "d.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", base, "1G"], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", disk], check=True)
    with pytest.raises(ProaError) as caught:
        await disks.check(disk)
    assert caught.value.code == "disk-has-backing-file"
    disk.write_bytes(b"not a disk" * 100)
    with pytest.raises(ProaError) as caught:
        await disks.check(disk)
    assert caught.value.code == "disk-corrupt"


def test_the_consoles_log_is_bounded_whatever_the_guest_writes(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    log = ConsoleLog(path, fresh=True)
    for number in range(40):
        log.write(b"%d\n" % number + bytes(100_000))
    files = sorted(entry.name for entry in tmp_path.iterdir())
    assert files == ["console.log", "console.log.1"]
    assert all((tmp_path / name).stat().st_size <= LOG_SIZE for name in files)
    ConsoleLog(path, fresh=True).write(b"a new boot\n")
    assert path.read_bytes() == b"a new boot\n"


USERNET = """\
Hub -1 (link0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[ESTABLISHED]   22       127.0.0.1 40999       10.0.3.15  7000     0     0
  TCP[HOST_FORWARD]  17       127.0.0.1 37511       10.0.3.15  7000     0     0
"""


def test_the_forwards_port_is_read_and_nothing_else_taken_for_it() -> None:
    assert forwarded_port(USERNET, "10.0.3.15", 7000) == 37511
    assert forwarded_port(USERNET, "10.0.3.15", 7001) is None
    assert forwarded_port("could not set up host forwarding rule", "10.0.3.15", 7000) is None
