"""Cold start: `proa start` beside a stock systemd guest with the same packages, processor and memory."""

from __future__ import annotations

import statistics

from tests.bench import stock
from tests.bench.figures import Figure, paired
from tests.bench.world import World, seconds
from tests.support.homes import PROA


def measure(world: World) -> list[Figure]:
    built = stock.build(world.say)
    accelerator = _first_start(world)
    guest = stock.StockGuest(built, world.home.folder, world.docker, accelerator)

    def ours() -> float:
        taken = seconds([PROA, "start"], world.home.environ)
        taken += seconds([world.docker, "version"], world.docker_environ)
        world.home.ok("stop", "--cold")
        return taken

    mine, others = paired(world.rounds, ours, guest.boot)
    world.say(f"proa {_list(mine)}, stock {_list(others)}, accelerator {accelerator}")
    figure = Figure("cold start", statistics.median(mine), "s", 0.55, statistics.median(others))
    world.cold_starts.append((figure.value, statistics.median(others)))
    return [figure]


def _first_start(world: World) -> str:
    """The start that makes the disk and proves the accelerator is not the one that is measured."""
    world.home.ok("start")
    accelerator = world.home.status()["accelerator"]
    world.home.ok("stop", "--cold")
    return str(accelerator)


def _list(values: list[float]) -> str:
    return " ".join(f"{value:.1f}" for value in values) + " s"
