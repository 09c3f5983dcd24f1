"""Real clients and long use of Proa's front, natively: builds, the engine's socket in containers, no leaks.

The engine is the guest's own release, run natively: thousands of calls take a minute and not hours.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.clients import MAKES_ANOTHER
from tests.support.commands import Result, run
from tests.support.conversations import Stage, request
from tests.support.homes import wait_until
from tests.support.native_engine import NativeEngine
from tests.support.native_front import NativeFront

pytestmark = [pytest.mark.machine, pytest.mark.timeout(600)]

MIB = 1 << 20
CALLS, CONNECTIONS, SESSIONS, AT_ONCE = 10_000, 2_000, 200, 8
SOCKET = "/var/run/docker.sock"


def docker(engine: NativeEngine, socket: Path, *args: str, timeout: float = 120, **environ: str) -> Result:
    argv = (str(engine.docker), *args)
    return run(argv, timeout=timeout, env={**engine.environ(socket), **environ})


@pytest.mark.parametrize("buildkit", ["1", "0"])
def test_builds_with_both_builders(
    engine: NativeEngine, front: NativeFront, tmp_path: Path, buildkit: str
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY data /data\nRUN wc -c /data >/size\n")
    (tmp_path / "data").write_bytes(bytes(20 * MIB))
    docker(
        engine, front.socket, "build", "--no-cache", "-t", "built", str(tmp_path), DOCKER_BUILDKIT=buildkit
    ).check()
    told = docker(engine, front.socket, "run", "--rm", "built", "cat", "/size").check()
    assert told.out.split()[0] == str(20 * MIB)


@pytest.fixture(scope="module")
def client(engine: NativeEngine) -> str:
    """An image with a client of the API in it."""
    engine.load("library/node")
    return "node:18"


@pytest.mark.parametrize(
    "words",
    [("-v", f"{SOCKET}:{SOCKET}"), ("--mount", f"type=bind,source={SOCKET},target={SOCKET}")],
    ids=["volume", "mount"],
)
def test_a_container_talks_to_its_engine(
    engine: NativeEngine, front: NativeFront, client: str, words: tuple[str, ...]
) -> None:
    """As testcontainers does it: a container makes another, through the socket that was mounted."""
    argv = ("run", "--rm", *words, client, "node", "-e", MAKES_ANOTHER)
    made = docker(engine, front.socket, *argv).check().out
    state = docker(engine, front.socket, "inspect", "-f", "{{.State.Running}}", made).check()
    assert state.out == "true"
    docker(engine, front.socket, "rm", "-f", made).check()


def test_so_does_a_compose_service(
    engine: NativeEngine, front: NativeFront, client: str, tmp_path: Path
) -> None:
    service = {"image": client, "command": ["node", "-e", MAKES_ANOTHER], "volumes": [f"{SOCKET}:{SOCKET}"]}
    file = tmp_path / "compose.yaml"
    file.write_text(json.dumps({"services": {"maker": service}}))
    compose = ("compose", "-p", "maker", "-f", str(file))
    told = docker(engine, front.socket, *compose, "run", "--rm", "-T", "maker").check()
    docker(engine, front.socket, "rm", "-f", told.out.splitlines()[-1]).check()
    docker(engine, front.socket, *compose, "down").check()


@pytest.mark.parametrize(
    "line",
    (
        "GET /events",
        "GET /containers/{box}/logs?follow=1&stdout=1",
        "GET /containers/{box}/stats?stream=1",
        "POST /containers/{box}/wait",
        "PUT /containers/{box}/archive?path=/",
        "POST /build",
    ),
)
def test_a_request_that_is_dropped_ends_in_the_engine(
    engine: NativeEngine, front: NativeFront, line: str
) -> None:
    """A client that leaves, whatever it was at, is one connection less at the engine.

    Not of an attachment or an exec: the engine itself keeps these until what runs there says something.
    """
    stage = Stage(engine.socket, "busybox")
    box = stage.container("sh", "-c", "echo up; exec cat", OpenStdin=True)
    target = line.format(box=box)
    sent = request(target, b"" if line.startswith("POST") else None)
    if line.startswith("PUT") or line == "POST /build":  # half an upload
        headers = ("Transfer-Encoding: chunked", "Content-Type: application/x-tar")
        sent = request(target, b"200\r\n" + bytes(100), *headers)

    front.idle()
    before = _served(engine)
    try:
        with Stage(front.socket, "busybox").peer() as peer:
            peer.send(sent)
            wait_until(lambda: _served(engine) == before + 1, 10, "the engine serves it")
        wait_until(lambda: _served(engine) <= before, 10, "the engine is done with who has left")
    finally:
        stage.sweep()


def _served(engine: NativeEngine) -> int:
    """Connections of the front's to the engine that dockerd has open; others' are of other namespaces."""
    (dockerd,) = (
        path.parent
        for path in Path("/proc").glob("[0-9]*/comm")
        if path.read_text(errors="replace") == "dockerd\n" and _within(path.parent, engine)
    )
    lines = (dockerd / "net/unix").read_text().splitlines()[1:]
    # State 03 is connected (net/unix/af_unix.c); the path is that of the side that listens.
    return sum(fields[5] == "03" and fields[-1] == "/run/docker.sock" for fields in map(str.split, lines))


def _within(process: Path, engine: NativeEngine) -> bool:
    """Whether a process belongs to that engine's namespaces, which its first process made."""
    (first,) = Path(f"/proc/{engine.pid}/task/{engine.pid}/children").read_text().split()
    return (process / "ns/pid").readlink() == Path(f"/proc/{first}/ns/pid").readlink()


def test_a_slow_reader_costs_bounded_memory(engine: NativeEngine, front: NativeFront) -> None:
    stage = Stage(front.socket, "busybox")
    container = stage.container("sh", "-c", "head -c 100000000 /dev/zero; sleep 300", Tty=True)
    before = front.figures().memory
    with stage.peer() as peer:
        peer.send(request(f"POST /containers/{container}/attach?logs=1&stream=1&stdout=1", b""))
        peer.head()
        grown, deadline = 0, time.monotonic() + 2
        while time.monotonic() < deadline:
            grown = max(grown, front.figures().memory - before)
            time.sleep(0.05)
    stage.sweep()
    assert grown < 8 * MIB


@pytest.mark.long
def test_nothing_is_left_of_long_use(engine: NativeEngine, front: NativeFront) -> None:
    """10,000 calls, 2,000 port connections and 200 exec sessions: descriptors, tasks and memory as before."""
    stage = Stage(front.socket, "busybox")
    server = "while :; do echo hello | nc -l -p 80 >/dev/null; done"
    with _published(stage, server) as (container, port):
        _use(stage, container, port, 10)  # what is allocated once is no leak
        before = front.idle()
        _use(stage, container, port, 1)
        after = front.idle()
    assert (after.descriptors, after.tasks) == (before.descriptors, before.tasks)
    assert after.memory - before.memory < 5 * MIB


def _use(stage: Stage, container: str, port: int, part: int) -> None:
    """One `part`-th of all the use, several clients at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        each = CALLS // part // AT_ONCE
        done = [pool.submit(_calls, stage.path, each) for _ in range(AT_ONCE)]
        done += [pool.submit(_session, stage, container) for _ in range(SESSIONS // part)]
        for future in done:
            future.result()
    for _ in range(CONNECTIONS // part):
        _connect(port)


def _calls(path: Path, count: int) -> None:
    """Some on one connection, then a new one."""
    for start in range(0, count, 50):
        connection = http.client.HTTPConnection("engine", timeout=60)
        with socket.socket(socket.AF_UNIX) as connected:
            connected.settimeout(60)
            connected.connect(str(path))
            connection.sock = connected
            for _ in range(min(50, count - start)):
                connection.request("GET", "/containers/json")
                assert len(json.loads(connection.getresponse().read())) == 1


def _session(stage: Stage, container: str) -> None:
    execution = stage.execution(container, "cat", AttachStdin=True)
    with Stage(stage.path, stage.image).peer() as peer:
        upgrade = ("Connection: Upgrade", "Upgrade: tcp", "Content-Type: application/json")
        peer.send(request(f"POST /exec/{execution}/start", b"{}", *upgrade))
        peer.head()
        peer.send(b"hello\n")
        peer.until(b"hello\n")
        peer.half_close()
        peer.rest()


def _connect(port: int) -> None:
    """One connection to the published port; what the container does with it is its own affair."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.shutdown(socket.SHUT_WR)
        try:
            while connection.recv(4096):
                pass
        except ConnectionResetError:
            return


@contextmanager
def _published(stage: Stage, server: str) -> Iterator[tuple[str, int]]:
    """A container with a published port, bound on the host as well; its id and the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host = {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}}
    container = stage.container(
        "sh", "-c", server, ExposedPorts={"80/tcp": {}}, HostConfig={**host, "Init": True}
    )
    try:
        yield container, port
    finally:
        stage.sweep()


@pytest.mark.long
def test_a_hundred_runs_at_once(engine: NativeEngine, front: NativeFront) -> None:
    """As many complete through Proa as on the engine alone."""

    def completed(socket: Path) -> int:
        def one(number: int) -> bool:
            done = docker(engine, socket, "run", "--rm", "busybox", "echo", f"run {number}", timeout=300)
            return (done.status, done.out) == (0, f"run {number}")

        with ThreadPoolExecutor(100) as pool:
            return sum(pool.map(one, range(100)))

    assert completed(front.socket) >= completed(engine.socket)


@pytest.mark.long
def test_save_and_load_two_gigabytes(engine: NativeEngine, front: NativeFront, tmp_path: Path) -> None:
    """`docker save | docker load`, both through Proa at once: the image comes back with its id."""
    stage = Stage(front.socket, "busybox")
    container = stage.container("sh", "-c", "head -c 2147483648 /dev/urandom >/big")
    docker(engine, front.socket, "wait", container, timeout=300).check()
    docker(engine, front.socket, "commit", container, "big", timeout=300).check()
    stage.sweep()
    image = docker(engine, front.socket, "image", "inspect", "-f", "{{.Id}}", "big").check().out
    before = front.idle().memory
    script = (
        'set -o pipefail; "$0" save big | (read -r -N 1 first; "$0" rmi -f big >&2; printf %s "$first"; cat)'
    )
    pipe = f'{script} | "$0" load'
    argv = ("bash", "-c", pipe, str(engine.docker))
    run(argv, timeout=500, env=engine.environ(front.socket)).check()
    assert docker(engine, front.socket, "image", "inspect", "-f", "{{.Id}}", "big").check().out == image
    assert front.idle().memory - before < 8 * MIB
    docker(engine, front.socket, "rmi", "big").check()


def test_no_idle_stream_is_ever_cut(front: NativeFront) -> None:
    """No clock runs on a stream in use, on either side of the link: what waits, waits for its peers alone."""
    folders = [
        Path(__file__).resolve().parents[2] / name for name in ("host/proa/engine", "guest/proa_guest")
    ]
    link = folders[0].parent / "link"
    relays = [folders[0] / "proxy.py", folders[0] / "conversation.py", folders[1] / "relay.py"]
    relays.append(link / "stream.py")
    clocks = re.compile(r"call_later|call_at|wait_for|asyncio\.timeout|settimeout|SO_KEEPALIVE|SO_RCVTIMEO")
    found = {path.name: clocks.findall(path.read_text()) for path in relays}
    # The one that is there bounds how long an answer waits for ports to be bound.
    assert found == {"proxy.py": ["asyncio.timeout"], "conversation.py": [], "relay.py": [], "stream.py": []}
    stage = Stage(front.socket, "busybox")
    box = stage.container("cat", OpenStdin=True)
    with stage.peer() as events, stage.peer() as logs:
        events.send(request("GET /events"))
        events.head()
        logs.send(request(f"GET /containers/{box}/logs?follow=1&stdout=1"))
        logs.head()
        events.silent(15)
        logs.silent(0.1)
        assert events.said[-1] == logs.said[-1] == ("silence", b"(silence)")
    stage.sweep()
