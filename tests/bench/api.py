"""What the agent adds to the engine's API of a guest, and to `docker ps` natively; and its memory."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

from proa.link.loopback import Loopback
from proa.link.pool import LinkPool
from proa.system.tasks import Tasks
from tests.bench.figures import Figure, median_difference, paired
from tests.bench.world import World, seconds
from tests.support.commands import resident
from tests.support.conversations import Stage
from tests.support.homes import Home
from tests.support.links import Streams, streams
from tests.support.native import native_agent
from tests.support.native_engine import NativeEngine, native_engine
from tests.support.native_front import native_front

ROUNDS, TURNS, AT_ONCE = 15, 80, 8
REQUESTS = 20  # of one client in a turn; short, for the speed of a shared host changes within seconds
REQUEST = b"GET /containers/json HTTP/1.1\r\nHost: docker\r\n\r\n"


def measure(world: World) -> list[Figure]:
    with ExitStack() as stack:
        engine = stack.enter_context(native_engine())
        engine.load("library/busybox")
        folder = engine.folder / "link"
        folder.mkdir()
        (folder / "engine.sock").symlink_to(engine.socket)
        agent = stack.enter_context(native_agent(folder, beside=engine.pid))
        front = stack.enter_context(native_front(agent, folder))
        Stage(engine.socket, "busybox").container("sleep", "3600")
        ps = docker_ps(engine, front.socket)
    world.home.ok("start")
    return [*exchanges(world.home, TURNS), ps, _memory(world)]


def exchanges(home: Home, turns: int) -> list[Figure]:
    """What the agent of a running machine adds to a small request: of one client, and of several at once."""
    socket = home.folder / "run/default/docker.sock"
    return asyncio.run(_api(*_link(home), socket, turns))


def _link(home: Home) -> tuple[int, bytes]:
    """The port of this host that leads to the running guest's link, and the link's secret."""
    pid = home.status()["pid"]
    open_files = Path(f"/proc/{pid}/fd").iterdir()
    sockets = {str(file.readlink()) for file in open_files}
    listening = [
        int(fields[1].partition(":")[2], 16)
        for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets
    ]
    (port,) = listening  # QEMU chose it; published ports are the agent's own
    return port, (home.folder / "run/default/link.key").read_bytes()


async def _api(port: int, secret: bytes, path: Path, turns: int) -> list[Figure]:
    """One small request on a kept connection, and of several clients at once, in turn over the raw link.

    The ratio is the median of the turns' ratios: each compares what was measured in the same second.
    """
    tasks = Tasks("bench")
    pool = LinkPool(Loopback("127.0.0.1", port), secret, tasks)
    raw = [streams(await pool.open("engine")) for _ in range(AT_ONCE)]
    through = [await asyncio.open_unix_connection(str(path)) for _ in range(AT_ONCE)]
    # The raw link's streams are open by now; the agent opens its own with a client's first request.
    await asyncio.gather(*(_exchange(*client) for client in (*raw, *through)))
    pairs: list[tuple[list[float], list[float]]] = [([], []), ([], [])]
    for number in range(turns):
        ways = list(zip((raw, through), (0, 1), strict=True))
        for clients, which in ways if number % 2 else reversed(ways):
            pairs[0][which].append(await _taken(clients[:1]) * 1000 / REQUESTS)
            pairs[1][which].append(AT_ONCE * REQUESTS / await _taken(clients))
    for _, writer in (*raw, *through):
        writer.transport.abort()
    await pool.close()
    await tasks.close()
    (one, one_raw), (many, many_raw) = (_typical(*pair) for pair in pairs)
    return [
        Figure("engine API through the agent, over the raw link", one, "ms", 1.15, one_raw),
        Figure(
            f"the same, requests a second of {AT_ONCE} clients", many, "1/s", 1 / 1.15, many_raw, floor=True
        ),
    ]


async def _taken(clients: list[Streams]) -> float:
    """Seconds in which each of them asks and is answered REQUESTS times, one after the other."""

    async def ask(client: Streams) -> None:
        for _ in range(REQUESTS):
            await _exchange(*client)

    began = time.perf_counter()
    await asyncio.gather(*map(ask, clients))
    return time.perf_counter() - began


def _typical(raw: list[float], through: list[float]) -> tuple[float, float]:
    """Figure and baseline: the median over the raw link, and that times the median ratio of the turns."""
    baseline = statistics.median(raw)
    return baseline * statistics.median(b / a for a, b in zip(raw, through, strict=True)), baseline


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length))


def docker_ps(engine: NativeEngine, path: Path) -> Figure:
    """What the agent's part adds to `docker ps`, natively."""
    argv: tuple[Path | str, ...] = (engine.docker, "ps")
    through, straight = paired(
        ROUNDS,
        lambda: seconds(argv, engine.environ(path)) * 1000,
        lambda: seconds(argv, engine.environ()) * 1000,
    )
    return Figure(
        "docker ps, more than on the engine's socket", median_difference(through, straight), "ms", 10
    )


def _memory(world: World) -> Figure:
    """Of the agent with two running machines, after some use."""
    world.home.ok("create", "second", "--memory", "1GiB")
    world.home.ok("start", "second")
    for _ in range(100):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(world.socket))
            connection.sendall(b"GET /containers/json HTTP/1.0\r\n\r\n")
            while connection.recv(1 << 16):
                pass
    pid = world.home.agent_pid()
    assert pid is not None
    memory = resident(pid)
    world.home.ok("delete", "second", "--yes")
    return Figure("the agent's memory with two machines", memory, "MiB", 60)
