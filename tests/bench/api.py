"""What the agent adds to the engine's API of a guest, and to `docker ps` natively; and its memory."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

from proa.link.loopback import Loopback
from proa.link.pool import LinkPool
from proa.system.tasks import Tasks
from tests.bench.figures import Figure, median_difference, paired
from tests.bench.world import World, seconds
from tests.support.conversations import Stage
from tests.support.links import Streams, streams
from tests.support.native import native_agent
from tests.support.native_engine import NativeEngine, native_engine
from tests.support.native_front import native_front

ROUNDS, REQUESTS, AT_ONCE = 15, 400, 8
REQUEST = b"GET /containers/json HTTP/1.1\r\nHost: docker\r\n\r\n"
Connect = Callable[[], Awaitable[Streams]]


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
        ps = _docker_ps(engine, front.socket)
    world.home.ok("start")
    return [*asyncio.run(_api(*_link(world), world.socket)), ps, _memory(world)]


def _link(world: World) -> tuple[int, bytes]:
    """The port of this host that leads to the running guest's link, and the link's secret."""
    (pid,) = world.home.hypervisors()
    open_files = Path(f"/proc/{pid}/fd").iterdir()
    sockets = {str(file.readlink()) for file in open_files}
    listening = [
        int(fields[1].partition(":")[2], 16)
        for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets
    ]
    (port,) = listening  # QEMU chose it; published ports are the agent's own
    return port, (world.home.folder / "run/default/link.key").read_bytes()


async def _api(port: int, secret: bytes, path: Path) -> list[Figure]:
    tasks = Tasks("bench")
    pool = LinkPool(Loopback("127.0.0.1", port), secret, tasks)

    async def raw() -> Streams:
        return streams(await pool.open("engine"))

    async def through() -> Streams:
        return await asyncio.open_unix_connection(str(path))

    alone: tuple[list[float], list[float]] = ([], [])
    together: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS + 1):
        for connect, one, many in zip((raw, through), alone, together, strict=True):
            latency, rate = await _latency(connect), await _rate(connect)
            if number:
                one.append(latency)
                many.append(rate)
    await pool.close()
    await tasks.close()
    one, many = ([statistics.median(values) for values in pair] for pair in (alone, together))
    return [
        Figure("engine API through the agent, over the raw link", one[1], "ms", 1.15, one[0]),
        Figure(
            f"the same, requests a second of {AT_ONCE} clients", many[1], "1/s", 1 / 1.15, many[0], floor=True
        ),
    ]


async def _latency(connect: Connect) -> float:
    """Milliseconds of one small request on a kept connection."""
    reader, writer = await connect()
    began = time.perf_counter()
    for _ in range(REQUESTS // AT_ONCE):
        await _exchange(reader, writer)
    taken = time.perf_counter() - began
    writer.transport.abort()
    return taken * 1000 / (REQUESTS // AT_ONCE)


async def _rate(connect: Connect) -> float:
    """Requests a second of several clients at once."""
    clients = [await connect() for _ in range(AT_ONCE)]

    async def ask(client: Streams) -> None:
        for _ in range(REQUESTS // AT_ONCE):
            await _exchange(*client)

    # The raw link's streams are open by now; the agent opens its own with a client's first request.
    await asyncio.gather(*(_exchange(*client) for client in clients))
    began = time.perf_counter()
    await asyncio.gather(*(ask(client) for client in clients))
    taken = time.perf_counter() - began
    for _, writer in clients:
        writer.transport.abort()
    return REQUESTS / taken


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length))


def _docker_ps(engine: NativeEngine, path: Path) -> Figure:
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
    status = Path(f"/proc/{pid}/status").read_text()
    world.home.ok("delete", "second", "--yes")
    resident = int(status.partition("VmRSS:")[2].split()[0]) / 1024
    return Figure("the agent's memory with two machines", resident, "MiB", 60)
