"""Sleep: warm starts and wakes beside cold starts, what a stop and a suspend take, what a sleeper costs."""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from proa.machine.sleep.images import ImageFolder
from tests.bench import starts
from tests.bench.figures import Figure
from tests.bench.world import QUIET, Docker, World, cpu_at_rest, seconds
from tests.support import debian_images
from tests.support.commands import run
from tests.support.homes import PROA, wait_until
from tests.support.registry import free_port

ROUNDS = 5
MIB = 1 << 20
FULL = 512 * MIB  # memory in use when it is suspended
LOAD = 1024  # MiB that are written and freed


def measure(world: World) -> list[Figure]:
    figures = [] if world.starts else starts.measure(world)[1:]
    world.home.ok("start")
    warm, stops = _warm(world)
    without_agent = statistics.median(_start_without_agent(world) for _ in range(ROUNDS))
    figures += [
        Figure("warm start without an agent, more", without_agent - warm, "s", 0.5),
        Figure("stop without containers", stops, "s", 1.5),
    ]
    figures += _wakes(world, warm)
    figures += _full(world)
    figures += _given_back(world)
    world.home.ok("stop", "--cold")
    return figures


def _median(rounds: int, before: Callable[[], object], timed: Callable[[], float]) -> float:
    """The first round does not count."""
    found = []
    for number in range(rounds + 1):
        before()
        taken = timed()
        if number:
            found.append(taken)
    return statistics.median(found)


def _warm(world: World) -> tuple[float, float]:
    stops: list[float] = []

    def stop() -> None:
        stops.append(seconds([PROA, "stop"], world.home.environ))

    warm = _median(ROUNDS, stop, world.answered_start)
    world.say(f"the agent's log: {_last_wake(world)}")
    return warm, statistics.median(stops[1:])


def _last_wake(world: World) -> str:
    log = (world.home.folder / "logs/agent.log").read_text()
    return next((line for line in reversed(log.splitlines()) if "woken: " in line), "")


def _start_without_agent(world: World) -> float:
    world.home.ok("stop")
    pid = world.home.agent_pid()
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: world.home.agent_pid() is None, 20, "the agent ended")
    return world.answered_start()


def _wakes(world: World, warm: float) -> list[Figure]:
    port = free_port()
    docker = Docker(world)
    docker("run", "-d", "--name", "page", "-p", f"{port}:80", "proa/welcome")
    page = f"http://127.0.0.1:{port}/"
    wait_until(lambda: run(["curl", "-sf", page], timeout=20).status == 0, 60, "the page is there")

    def suspend() -> str:
        return world.home.ok("suspend")

    listed = _median(ROUNDS, suspend, lambda: seconds([world.docker, "ps"], world.docker_environ))
    fetched = _median(ROUNDS, suspend, lambda: seconds(["curl", "-sf", page], world.home.environ))
    suspend()
    agent = world.home.agent_pid()
    assert agent is not None
    spent = cpu_at_rest(agent)
    assert world.home.hypervisors() == [], "nothing runs while it sleeps"
    docker("rm", "-f", "page")
    return [
        Figure("docker ps of a sleeping machine over a warm start", listed, "s", 1.2, warm),
        Figure("a page of a sleeping machine over a warm start", fetched, "s", 1.2, warm),
        Figure(f"CPU of the agent over {QUIET:.0f} s of sleep", spent, "s", 0.01),
    ]


def _full(world: World) -> list[Figure]:
    """Suspend with 512 MiB in use, and how large the image is beside them."""
    fill = max(0, FULL - _in_use(world)) // MIB
    world.home.ok("shell", "--", "dd", "if=/dev/urandom", "of=/run/fill", "bs=1M", f"count={fill}")
    used = _in_use(world)
    taken = seconds([PROA, "suspend"], world.home.environ)
    machine = world.home.folder / "machines/default"
    header = ImageFolder(machine, machine / "data.qcow2").peek()
    assert header is not None
    world.say(f"{used // MIB} MiB in use, image {header.bytes // MIB} MiB")
    world.home.ok("start")
    world.home.ok("shell", "--", "rm", "/run/fill")
    return [
        Figure("suspend with 512 MiB in use", taken, "s", 2.0),
        Figure("memory image over memory in use", header.bytes / MIB, "MiB", 1.3, used / MIB),
    ]


def _in_use(world: World) -> int:
    """Bytes of the guest's memory that are not free: caches count, as they are kept."""
    table = dict(
        line.split(":") for line in world.home.ok("shell", "--", "cat", "/proc/meminfo").splitlines() if line
    )
    total, free = (int(table[name].split()[0]) << 10 for name in ("MemTotal", "MemFree"))
    return total - free


def _given_back(world: World) -> list[Figure]:
    """1 GiB written and freed in a container, after a restore: what the host still holds 30 s later."""
    docker = Docker(world)
    with tempfile.TemporaryDirectory(prefix="proa-bench-") as folder:
        archive = Path(folder) / "busybox.tar"
        debian_images.save("library/busybox", archive, world.say)
        docker("load", "-i", str(archive))
    docker("run", "-d", "--name", "load", "busybox", "sleep", "1000")
    before = _settled(world)
    # It has all of it in memory at once.
    docker("exec", "load", "dd", "if=/dev/zero", "of=/dev/null", f"bs={LOAD}M", "count=1")
    deadline = time.monotonic() + 30
    while (after := _held(world)) > before * 1.15 and time.monotonic() < deadline:
        time.sleep(0.5)
    docker("rm", "-f", "load")
    return [Figure("memory held 30 s after 1 GiB was freed", after / MIB, "MiB", 1.15, before / MIB)]


def _held(world: World) -> int:
    """Bytes that the guest's memory takes on the host: of the file that it is, without what was given back.

    Not VmRSS: that counts what QEMU has touched since it was started, so that a guest that was just restored
    seems to hold little; and an emulator's translated code, 1 GiB of it at most.
    """
    (pid,) = world.home.hypervisors()
    links = [file for file in Path(f"/proc/{pid}/fd").iterdir() if "/memfd:proa-" in str(file.readlink())]
    (memory,) = {
        file.readlink(): file for file in links
    }.values()  # it has several descriptors of the one file
    return memory.stat().st_blocks * 512


def _settled(world: World) -> int:
    """What it holds once that falls no more: what was freed before is still on its way back."""
    held, since, deadline = _held(world), time.monotonic(), time.monotonic() + 30
    while time.monotonic() < min(since + 5, deadline):
        if (now := _held(world)) < held - MIB:
            held, since = now, time.monotonic()
        time.sleep(0.5)
    return held
