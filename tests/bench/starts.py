"""Cold and warm starts, and a stock systemd guest with the same packages, processor and memory, in turn.

In one round, because a machine's speed may be another ten minutes later.
"""

from __future__ import annotations

import statistics

from tests.bench import stock
from tests.bench.figures import Figure, paired
from tests.bench.world import Starts, World

WARM = 3  # warm starts in a round


def measure(world: World) -> list[Figure]:
    built = stock.build(world.say)
    accelerator = _first_start(world)
    guest = stock.StockGuest(built, world.home.folder, world.docker, accelerator)

    def cold() -> float:
        taken = world.answered_start()
        world.home.ok("stop")
        return taken

    def warm() -> float:
        world.home.ok("start")  # the first after a cold one has something to catch up with
        found = []
        for _ in range(WARM):
            world.home.ok("stop")
            found.append(world.answered_start())
        world.home.ok("stop", "--cold")
        return statistics.median(found)

    *ours, others = paired(world.rounds, cold, warm, guest.boot)
    world.say(f"cold {_list(ours[0])}, warm {_list(ours[1])}, stock {_list(others)}, with {accelerator}")
    found = Starts(*map(statistics.median, (*ours, others)))
    world.starts.append(found)
    return [
        Figure("cold start", found.cold, "s", 0.55, found.stock),
        Figure("warm start over a stock cold start", found.warm, "s", 1 / 50, found.stock),
        Figure("warm start over our cold start", found.warm, "s", 1 / 20, found.cold),
    ]


def _first_start(world: World) -> str:
    """The start that makes the disk and proves the accelerator is not the one that is measured."""
    world.home.ok("start")
    accelerator = world.home.status()["accelerator"]
    world.home.ok("stop", "--cold")
    return str(accelerator)


def _list(values: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values) + " s"
