"""`make up` where all is installed and built: what a user waits for a second time."""

from __future__ import annotations

import time

from tests.bench.figures import Figure
from tests.bench.world import World
from tests.support.commands import run
from tests.support.homes import REPOSITORY


def measure(world: World) -> list[Figure]:
    world.home.ok("stop")
    began = time.perf_counter()
    run(["make", "-C", str(REPOSITORY), "up"], timeout=600, env=world.home.environ).check()
    return [Figure("make up, a second time", time.perf_counter() - began, "s", 30)]
