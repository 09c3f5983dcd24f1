"""What the CLI adds: `proa docker version` beside `docker version` on one socket, and `proa status`."""

from __future__ import annotations

import shutil
import statistics

from tests.bench.figures import Figure, median_difference, paired
from tests.bench.world import World, seconds
from tests.support.homes import PROA

ROUNDS = 30


def measure(world: World) -> list[Figure]:
    world.home.ok("start")
    environ = world.docker_environ
    # The program that `proa docker` chooses: another one's time says nothing of what Proa adds.
    docker = shutil.which("docker", path=world.home.environ["PATH"]) or str(world.docker)
    through, straight, status = paired(
        ROUNDS,
        lambda: seconds([PROA, "docker", "version"], world.home.environ) * 1000,
        lambda: seconds([docker, "version"], environ) * 1000,
        lambda: seconds([PROA, "status"], world.home.environ) * 1000,
    )
    return [
        Figure("proa docker version, more than docker", median_difference(through, straight), "ms", 25),
        Figure("proa status", statistics.median(status), "ms", 150),
    ]
