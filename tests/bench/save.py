"""`docker save` of 500 MB through the agent, beside the same request on a link stream of the bench's own."""

from __future__ import annotations

import asyncio
import io
import json
import random
import statistics
import tarfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import h11

from proa.link.loopback import Loopback
from proa.link.pool import LinkPool
from proa.system.tasks import Tasks
from tests.bench.figures import Figure
from tests.bench.world import Docker, World
from tests.support.links import Streams, streams

SIZE = 500 << 20
PIECE = 1 << 20
ROUNDS = 3
TIMEOUT = 600.0
IMAGE = "bench/half-a-gigabyte"


def measure(world: World) -> list[Figure]:
    world.home.ok("start")
    archive = world.home.folder / "rootfs.tar"
    _make_archive(archive)
    Docker(world)("import", str(archive), IMAGE)
    archive.unlink()
    through, raw = asyncio.run(_compare(world))
    figure = Figure("docker save through the agent over the raw link", through, "MB/s", 0.85, raw, floor=True)
    return [figure]


def _make_archive(path: Path) -> None:
    """One file that does not compress, the same in every run."""
    chance = random.Random(1)
    info = tarfile.TarInfo("data")
    info.size = SIZE
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(info, _Pieces(chance))


class _Pieces(io.RawIOBase):
    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def read(self, size: int = -1) -> bytes:
        return self._chance.randbytes(max(0, size))


async def _compare(world: World) -> tuple[float, float]:
    """Medians of bytes/s (in MB), taken in turn: through the agent's socket, over the raw link."""
    tasks = Tasks("bench")
    booted = json.loads((world.home.folder / "run/default/hypervisor.json").read_text())
    secret = (world.home.folder / "run/default/link.key").read_bytes()
    pool = LinkPool(Loopback("127.0.0.1", booted["link_port"]), secret, tasks)

    async def by_agent() -> Streams:
        return await asyncio.open_unix_connection(str(world.socket), limit=PIECE)

    async def by_link() -> Streams:
        return streams(await pool.open("engine"), PIECE)

    rates: tuple[list[float], list[float]] = ([], [])
    try:
        for number in range(ROUNDS + 1):
            for connect, found in zip((by_agent, by_link), rates, strict=True):
                rate = await _download(connect)
                if number:
                    found.append(rate)
    finally:
        await pool.close()
        await tasks.close()
    return statistics.median(rates[0]), statistics.median(rates[1])


async def _download(connect: Callable[[], Awaitable[Streams]]) -> float:
    """MB/s of one `GET /images/NAME/get`."""
    began = time.perf_counter()
    size = 0
    connection = h11.Connection(h11.CLIENT)
    reader, writer = await connect()
    try:
        async with asyncio.timeout(TIMEOUT):
            request = h11.Request(method="GET", target=f"/images/{IMAGE}/get", headers=[("Host", "docker")])
            writer.write(connection.send(request) or b"")
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    connection.receive_data(await reader.read(PIECE))
                elif isinstance(event, h11.Response):
                    assert event.status_code == 200, event
                elif isinstance(event, h11.Data):
                    size += len(event.data)
    finally:
        writer.transport.abort()
    assert size > SIZE, f"{size} bytes came, and the image has {SIZE}"
    return size / 1e6 / (time.perf_counter() - began)
