"""`make up` where all is installed and built: what a user waits for a second time."""

from __future__ import annotations

from tests.bench.figures import Figure
from tests.bench.world import World, seconds
from tests.support.caches import REPOSITORY

TIMEOUT = 600.0


def measure(world: World) -> list[Figure]:
    world.home.ok("stop")
    taken = seconds(["make", "-C", REPOSITORY, "up"], world.home.environ, TIMEOUT)
    return [Figure("make up, a second time", taken, "s", 30)]
