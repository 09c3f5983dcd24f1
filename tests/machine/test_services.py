"""nginx, PostgreSQL and Redis, each used by a real client on the host through a published port."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator

import pytest

from tests.support.clients import Docker
from tests.support.commands import Result, run
from tests.support.homes import wait_until
from tests.support.registry import free_port

pytestmark = [pytest.mark.machine, pytest.mark.timeout(480)]

PARALLEL = 200


@pytest.fixture(scope="module")
def nginx(docker: Docker) -> Iterator[int]:
    """The host's port of an nginx."""
    port = free_port()
    docker("run", "-d", "--name", "web", "-p", f"{port}:80", "nginx", timeout=120)
    yield port
    docker("rm", "-f", "web")


def test_nginx_and_curl(nginx: int) -> None:
    """The first request after `docker run -d` returns is answered, if nginx itself is fast enough."""
    page = wait_until(lambda: _curl(nginx, "--fail").out, 30, "nginx answers")
    assert "Welcome to nginx" in page
    assert _curl(nginx, "-o", "/dev/null", "-w", "%{http_code}", path="/nothing").out == "404"


def test_200_connections_at_once(nginx: int) -> None:
    wait_until(lambda: _curl(nginx, "--fail").out, 30, "nginx answers")
    whole = _curl(nginx, "--fail").raw
    answers = asyncio.run(_all_at_once(nginx))
    assert len(answers) == PARALLEL
    wrong = [
        answer for answer in answers if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(whole)
    ]
    assert not wrong, f"{len(wrong)} of {PARALLEL}, for example {wrong[0][:300]!r}"


def test_redis_and_redis_cli(docker: Docker) -> None:
    assert shutil.which("redis-cli"), "redis-cli is missing: apt-get install redis-tools"
    port = free_port()
    docker("run", "-d", "--name", "store", "-p", f"127.0.0.1:{port}:6379", "redis", timeout=120)

    def cli(*words: str, input: str | None = None) -> str:
        return run(["redis-cli", "-p", str(port), *words], timeout=30, input=input).out

    wait_until(lambda: cli("PING") == "PONG", 30, "redis answers")
    assert cli("SET", "greeting", "hello from the host") == "OK"
    assert cli("GET", "greeting") == "hello from the host"
    commands = "".join(f"SET key:{number} {number}\n" for number in range(1000))
    assert "errors: 0, replies: 1000" in cli("--pipe", input=commands)
    assert cli("DBSIZE") == "1001"
    docker("rm", "-f", "-v", "store")


def test_a_container_wakes_when_it_asked_to(docker: Docker) -> None:
    """Where the processor is emulated the engine's own pauses may be longer (proa_guest.init): only those."""
    exactly = 50_000  # nanoseconds, prctl(2): what a process has unless it is told otherwise
    assert int(docker("run", "--rm", "busybox", "cat", "/proc/self/timerslack_ns").out) == exactly


@pytest.mark.long
def test_postgres_and_psql(docker: Docker) -> None:
    assert shutil.which("psql"), "psql is missing: apt-get install postgresql-client"
    port = free_port()
    docker(
        "run", "-d", "--name", "base", "-p", f"{port}:5432",
        "-e", "POSTGRES_PASSWORD=secret", "-v", "base-data:/var/lib/postgresql/data", "postgres",
        timeout=180,
    )  # fmt: skip
    address = f"postgresql://postgres:secret@localhost:{port}/postgres?connect_timeout=10"

    def psql(sql: str) -> Result:
        return run(["psql", address, "-v", "ON_ERROR_STOP=1", "-qAt", "-c", sql], timeout=60)

    def ready() -> bool:
        assert docker("inspect", "-f", "{{.State.Running}}", "base").out == "true", docker("logs", "base").err
        return psql("SELECT 1").out == "1"

    wait_until(ready, 250, "postgres answers")
    psql("CREATE TABLE t AS SELECT g AS id, md5(g::text) AS word FROM generate_series(1, 20000) g").check()
    assert psql("SELECT count(*), max(length(word)) FROM t").check().out == "20000|32"
    assert len(psql("SELECT word FROM t ORDER BY id").check().out.splitlines()) == 20000
    wrong = run(["psql", address.replace("secret", "wrong"), "-c", "SELECT 1"], timeout=60)
    assert "password authentication failed" in wrong.err

    docker("rm", "-f", "base")
    docker(
        "run",
        "-d",
        "--name",
        "base",
        "-p",
        f"{port}:5432",
        "-v",
        "base-data:/var/lib/postgresql/data",
        "postgres",
    )
    wait_until(ready, 90, "postgres answers again")
    assert psql("SELECT count(*) FROM t").check().out == "20000", "the volume outlived its container"
    docker("rm", "-f", "base")


def _curl(port: int, *options: str, path: str = "/") -> Result:
    return run(["curl", "-s", "--max-time", "10", *options, f"http://localhost:{port}{path}"], timeout=20)


async def _all_at_once(port: int) -> list[bytes]:
    """Each connection is open before the first of them asks."""
    async with asyncio.timeout(90):
        pairs = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(PARALLEL)))
        for _, writer in pairs:
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answers = await asyncio.gather(*(reader.read() for reader, _ in pairs))
        for _, writer in pairs:
            writer.close()
        return answers
