"""PostgreSQL and SQLite (WAL) under load, through many sleeps, and saves and restores that are cut off.

What was committed before is there after, and the databases' own checks find nothing.
PROA_ROUNDS=200 python -m pytest tests/machine/test_sleep_databases.py is the whole of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proa.machine.sleep.order import Step
from tests.support.clients import Docker
from tests.support.commands import Result, run
from tests.support.faults import faulty
from tests.support.homes import Home, wait_until
from tests.support.registry import free_port

pytestmark = [pytest.mark.machine, pytest.mark.long, pytest.mark.timeout(3600)]

ROUNDS = int(os.environ.get("PROA_ROUNDS", "10"))
MIB = 1 << 20
SETUP = """
CREATE EXTENSION amcheck VERSION '1.3';
CREATE TABLE count (n bigserial PRIMARY KEY, word text DEFAULT md5(random()::text));
CREATE INDEX ON count (word);
CREATE PROCEDURE work() LANGUAGE plpgsql AS
$$ BEGIN LOOP INSERT INTO count DEFAULT VALUES; COMMIT; PERFORM pg_sleep(0.1); END LOOP; END $$;
"""
LITE = """
sqlite3 /data/db 'PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY)'
while :; do
    sqlite3 -cmd '.timeout 60000' /data/db 'PRAGMA synchronous=FULL; INSERT INTO t DEFAULT VALUES'
    sleep 0.2
done
"""


class Databases:
    """Both, each with somebody who writes one row after the other."""

    def __init__(self, docker: Docker) -> None:
        self.docker = docker
        port = self.port = free_port()
        self.address = f"postgresql://postgres:secret@localhost:{port}/postgres?connect_timeout=10"
        docker(
            "run", "-d", "--name", "base", "--restart", "always", "-p", f"127.0.0.1:{port}:5432",
            "-e", "POSTGRES_PASSWORD=secret", "-v", "base-data:/var/lib/postgresql/data", "postgres",
            timeout=180,
        )  # fmt: skip
        docker(
            "run", "-d", "--name", "lite", "--restart", "always", "-v", "lite-data:/data", "sqlite",
            "sh", "-c", LITE, timeout=180,
        )  # fmt: skip
        self.wait()
        self.psql(SETUP).check()

    def psql(self, sql: str) -> Result:
        return run(["psql", self.address, "-v", "ON_ERROR_STOP=1", "-qAt", "-c", sql], timeout=60)

    def wait(self) -> None:
        wait_until(lambda: self.psql("SELECT 1").out == "1", 250, "postgres answers")
        wait_until(self._counts, 60, "sqlite counts")

    def _counts(self) -> bool:
        return self._lite("SELECT max(n) FROM t", status=None).out.isdigit()

    def work(self) -> None:
        self.docker("exec", "-d", "base", "psql", "-U", "postgres", "-c", "CALL work()")
        wait_until(lambda: self.psql("SELECT count(*) > 0 FROM count").out == "t", 30, "postgres counts")

    def counts(self) -> tuple[int, int]:
        """The highest number that was committed in either."""
        base = self.psql("SELECT coalesce(max(n), 0) FROM count").check().out
        return int(base), int(self._lite("SELECT max(n) FROM t").out)

    def check(self) -> None:
        # Debian keeps it beside the other programs of its version, none of which is on the PATH.
        program = max(Path("/usr/lib/postgresql").glob("*/bin/pg_amcheck"))
        options = ("--heapallindexed", "--parent-check", "--host=localhost", "--username=postgres")
        argv = [str(program), *options, f"--port={self.port}", "--database=postgres"]
        run(argv, env={**os.environ, "PGPASSWORD": "secret"}, timeout=300).check()
        assert self._lite("PRAGMA integrity_check").out == "ok"
        assert self._lite("PRAGMA journal_mode").out == "wal"

    def _lite(self, sql: str, status: int | None = 0) -> Result:
        argv = ("exec", "lite", "sqlite3", "-cmd", ".timeout 60000", "/data/db", sql)
        return self.docker(*argv, status=status, timeout=90)


@pytest.fixture(scope="module")
def databases(docker: Docker) -> Iterator[Databases]:
    databases = Databases(docker)
    yield databases
    docker("rm", "-f", "-v", "base", "lite")


def test_rounds_lose_nothing(databases: Databases, docker: Docker, home: Home) -> None:
    databases.work()
    agent = home.agent_pid()
    assert agent is not None
    last = databases.counts()
    files, memory = _held(home, agent)
    for _ in range(ROUNDS):
        home.ok("suspend")
        docker("ps")
        counts = databases.counts()
        assert counts > last and counts[1] >= last[1], "both count on from where they were"
        last = counts
    databases.check()
    assert home.agent_pid() == agent
    wait_until(lambda: _held(home, agent)[0] <= files + 4, 30, "descriptors are as before")
    assert _held(home, agent)[1] <= memory + 5 * MIB


def _held(home: Home, agent: int) -> tuple[int, int]:
    """Open descriptors and resident bytes of the agent."""
    pages = int(Path(f"/proc/{agent}/statm").read_text().split()[1])
    return len(os.listdir(f"/proc/{agent}/fd")), pages * os.sysconf("SC_PAGE_SIZE")  # noqa: PTH208


@pytest.mark.parametrize(
    ("verb", "how", "step", "when"),
    [
        ("suspend", "agent", Step.SAVE, "after"),
        ("start", "hypervisor", Step.CONSUME, "after"),
    ],
)
def test_what_was_committed_outlives_a_fault(
    databases: Databases, home: Home, verb: str, how: str, step: Step, when: str
) -> None:
    home.ok("start")
    databases.wait()
    databases.work()
    before = databases.counts()
    if verb == "start":
        home.ok("suspend")
    with faulty(home, how, step, when):
        home.proa(verb, timeout=300)
    home.ok("start")
    databases.wait()
    after = databases.counts()
    assert after[0] >= before[0] and after[1] >= before[1], "what was committed before is there"
    databases.check()
