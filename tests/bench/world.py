"""What the programs share: an installation of its own with one machine, removed at the end."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.caches import guest_image
from tests.support.commands import run
from tests.support.homes import PROA, Home

CPUS, MEMORY = 1, 2048  # of both guests that are compared; MiB
DOCKER_TIMEOUT = 600.0  # seconds: git over sshfs in an emulated guest takes minutes
QUIET = 60.0  # seconds over which what rests is watched


@dataclass(frozen=True)
class Starts:
    """Medians of rounds in which each was measured, seconds to an answered `docker version`."""

    cold: float
    warm: float
    stock: float  # of the guest that ours is compared with


@dataclass(frozen=True)
class World:
    """`image` is the guest image's folder; `home` has a stopped or running machine `default`."""

    home: Home
    image: Path
    docker: Path
    rounds: int
    starts: list[Starts]  # once they are measured

    @classmethod
    @contextmanager
    def open(cls, rounds: int) -> Iterator[World]:
        image = guest_image()
        found = shutil.which("docker")
        with Home() as home:
            home.import_image(image)
            home.ok("create", "default", "--cpus", str(CPUS), "--memory", f"{MEMORY}MiB")
            yield cls(home, image, Path(found) if found else image / "cli/docker", rounds, [])

    def say(self, text: str) -> None:
        print(f"bench: {text}", file=sys.stderr, flush=True)

    def answered_start(self) -> float:
        """Seconds that `proa start` takes, until the engine has answered `docker version`."""
        taken = seconds([PROA, "start"], self.home.environ)
        return taken + seconds([self.docker, "version"], self.docker_environ)

    @property
    def socket(self) -> Path:
        return self.home.folder / "run/default/docker.sock"

    @property
    def docker_environ(self) -> dict[str, str]:
        return {**self.home.environ, "DOCKER_HOST": f"unix://{self.socket}"}


class Docker:
    """The Docker CLI on that machine: called with its words it must succeed, and gives what it printed."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __call__(self, *words: str) -> str:
        argv = (str(self._world.docker), *words)
        return run(argv, timeout=DOCKER_TIMEOUT, env=self._world.docker_environ).check().out


def cpu_at_rest(pid: int, after: float = 2.0) -> float:
    """Seconds of CPU that a process uses in QUIET seconds in which nobody asks it for anything.

    They begin `after` so many, in which it ends what was before.
    """

    def used() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return int(fields[11]) + int(fields[12])  # proc(5): utime and stime, without the first two fields

    time.sleep(after)
    before = used()
    time.sleep(QUIET)
    return (used() - before) / os.sysconf("SC_CLK_TCK")


def seconds(argv: Sequence[str | Path], environ: Mapping[str, str], timeout: float = 300) -> float:
    """How long a command takes, which must succeed."""
    return run([str(word) for word in argv], timeout=timeout, env=environ).check().seconds
