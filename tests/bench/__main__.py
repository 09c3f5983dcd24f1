"""`make bench`: measures the budgets side by side in one run, prints them, and writes build/bench.json.

A list of {name, value, unit, baseline, ratio, budget, floor, ok}. Exit status 1 where a budget is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from tests.bench import api, commands, guest_mounts, mounts, save, setup, sleep, starts
from tests.bench.figures import Figure, table
from tests.bench.world import World
from tests.support.caches import REPOSITORY

Program = Callable[[World], list[Figure]]
PROGRAMS: dict[str, Program] = {
    "cold-start": starts.measure,
    "sleep": sleep.measure,
    "commands": commands.measure,
    "api": api.measure,
    "save": save.measure,
    "mounts": mounts.measure,
    "guest-mounts": guest_mounts.measure,
    "make-up": setup.measure,
}
RESULT = REPOSITORY / "build/bench.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3, help="timed boots of each kind (default: 3)")
    options = parser.parse_args()
    figures: list[Figure] = []
    with World.open(rounds=options.rounds) as world:
        for name in options.only:
            world.say(f"measuring {name}")
            figures += PROGRAMS[name](world)
            write(RESULT, figures)  # what was measured outlives what comes after it
    print(table(figures))
    return 0 if all(figure.ok for figure in figures) else 1


def write(path: Path, figures: list[Figure]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([figure.to_json() for figure in figures], indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
