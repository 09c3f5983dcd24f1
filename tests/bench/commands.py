"""What the CLI adds: `proa docker version` beside `docker version` on one socket, and `proa status`."""

from __future__ import annotations

import statistics

from tests.bench.figures import Figure, median_difference, paired
from tests.bench.world import World, seconds
from tests.support.homes import PROA

ROUNDS = 30


def measure(world: World) -> list[Figure]:
    world.home.ok("start")
    environ = world.docker_environ
    through, straight, status = paired(
        ROUNDS,
        lambda: seconds([PROA, "docker", "version"], world.home.environ) * 1000,
        lambda: seconds([world.docker, "version"], environ) * 1000,
        lambda: seconds([PROA, "status"], world.home.environ) * 1000,
    )
    return [
        Figure("proa docker version, more than docker", median_difference(through, straight), "ms", 25),
        Figure("proa status", statistics.median(status), "ms", 150),
    ]
