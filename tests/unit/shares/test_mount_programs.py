"""Programs that people run on bind mounts: version control, databases, package managers, watchers.

They run on the mount as in a container; the host looks at the same files from its own side.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import Process, run, start
from tests.support.npm import CHOKIDAR, EXPRESS, VITE, npm
from tests.support.share_mounts import ShareMount, soon

pytestmark = [pytest.mark.timeout(240), pytest.mark.long]

PATIENCE = 120.0
WATCHDOG = "watchdog==6.0.0"


@pytest.fixture(scope="module")
def mount() -> Iterator[ShareMount]:
    """One that other users can reach, as PostgreSQL's."""
    with tempfile.TemporaryDirectory(prefix="proa-programs-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "root").mkdir()
        with ShareMount(folder, {folder / "root": True}) as found:
            yield found


def tree(top: Path, *, rights: bool = True) -> dict[str, Any]:
    """Names, kinds, contents, and rights: the host may keep those of the guest beside its own."""
    found: dict[str, Any] = {}
    above = os.open(top, os.O_PATH)  # the way there would be looked up for each file
    here = Path(f"/proc/self/fd/{above}")
    for path in here.rglob("*"):
        name = str(path.relative_to(here))
        kind = path.lstat().st_mode
        if stat.S_ISLNK(kind):
            found[name] = os.readlink(path)
        elif stat.S_ISREG(kind):
            found[name] = kind & 0o777 * rights, path.read_bytes()
        else:
            found[name] = None
    os.close(above)
    return found


# -- version control and archives ------------------------------------------------------------------


def _git(at: Path, *words: str) -> str:
    names = ("-c", "user.name=Tester", "-c", "user.email=tester@localhost", "-c", "safe.directory=*")
    return run(("git", *names, "-C", str(at), *words), timeout=PATIENCE).check().out


def test_git(mount: ShareMount, host: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(300):
        file = source / f"folder{number % 20}" / f"file{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{number}\n" * number)
    _git(tmp_path, "init", "-q", "-b", "main", str(source))
    _git(source, "add", "-A")
    _git(source, "commit", "-qm", "All of it")

    guest = mount.path(host)
    _git(guest, "clone", "-q", "--no-hardlinks", str(source), "clone")
    here, there = host / "clone", guest / "clone"
    assert _git(there, "status", "--porcelain") == ""
    (here / "folder1/file1.txt").write_text("changed on the host\n")
    mount.settled()
    assert _git(there, "status", "--porcelain") == "M folder1/file1.txt"
    _git(there, "switch", "-q", "-c", "other")
    _git(there, "commit", "-qam", "A change")
    _git(there, "worktree", "add", "-q", "../tree", "main")
    _git(there, "mv", "folder2", "moved")
    _git(there, "commit", "-qm", "A move")
    _git(guest / "tree", "merge", "-q", "other")
    _git(there, "gc", "-q", "--prune=now")
    for at in (there, guest / "tree"):
        assert _git(at, "status", "--porcelain") == ""
        assert _git(at, "fsck", "--strict", "--no-dangling") == ""
    assert tree(here, rights=False) == tree(there, rights=False)
    _git(here, "fsck", "--strict", "--no-dangling")  # the host's own view
    assert sorted(path.name for path in (host / "tree/moved").iterdir()) == sorted(
        f"file{number}.txt" for number in range(2, 300, 20)
    )


def test_unpacking_five_thousand_files(mount: ShareMount, host: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    for number in range(5000):
        file = plain / f"{number % 50}" / f"{number % 7}" / f"{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"%d" % number * (number % 500))
        file.chmod((0o644, 0o600, 0o755, 0o444)[number % 4])
    (plain / "link").symlink_to("1/1/1")
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(plain, "unpacked")
    wanted = tree(plain)
    guest = mount.path(host)
    run(("tar", "xf", str(tmp_path / "all.tar"), "-C", str(guest)), timeout=PATIENCE).check()
    assert tree(guest / "unpacked") == wanted
    assert tree(host / "unpacked", rights=False) == tree(plain, rights=False)
    run(("tar", "cf", str(tmp_path / "again.tar"), "-C", str(guest), "unpacked"), timeout=PATIENCE).check()
    with tarfile.open(tmp_path / "again.tar") as archive:
        assert len(archive.getnames()) == len(wanted) + 1
    run(("rm", "-r", str(guest / "unpacked")), timeout=PATIENCE).check()
    assert os.listdir(host) == []


# -- databases -------------------------------------------------------------------------------------

_INSERT = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
database.execute("PRAGMA synchronous=FULL")
number = int(sys.argv[3])
while True:
    database.execute("BEGIN IMMEDIATE")
    database.execute("INSERT INTO rows VALUES (?, ?, ?)", (sys.argv[2], number, "x" * (number % 3000)))
    database.execute("COMMIT")
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("mode", ("wal", "delete"))
def test_sqlite_loses_nothing_when_it_is_killed(mount: ShareMount, host: Path, mode: str) -> None:
    """Two writers at once, killed in the middle, again and again."""
    at = mount.path(host) / "data.sqlite"
    with closing(sqlite3.connect(at)) as database:
        database.execute(f"PRAGMA journal_mode={mode}")
        database.execute("CREATE TABLE rows (writer TEXT, number INTEGER, filling TEXT)")
    said = {"a": 0, "b": 0}
    chance = random.Random(mode)
    for _ in range(3):
        with _inserting(at, "a", said["a"]) as one, _inserting(at, "b", said["b"]) as two:
            for writer, process in (("a", one), ("b", two)):
                assert process.stdout is not None
                for _ in range(chance.randrange(5, 60)):
                    said[writer] = int(process.stdout.readline()) + 1
            for process in (one, two):
                os.kill(process.pid, signal.SIGKILL)
            for writer, process in (("a", one), ("b", two)):
                assert process.stdout is not None
                for line in process.stdout:  # what it said before it was killed
                    said[writer] = int(line) + 1
        for seen in (at, host / "data.sqlite") if mode == "delete" else (at,):
            with closing(sqlite3.connect(seen, timeout=60)) as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                for writer, count in said.items():
                    question = "SELECT count(*), max(number) FROM rows WHERE writer = ?"
                    rows, last = database.execute(question, writer).fetchone()
                    assert rows == last + 1 and rows in (count, count + 1), (writer, count)
                    said[writer] = rows


def _inserting(at: Path, writer: str, first: int) -> AbstractContextManager[Process]:
    return start((sys.executable, "-c", _INSERT, str(at), writer, str(first)))


class Postgres:
    """A server that has its data on the mount, in `at / "data"`, and its socket and log beside it."""

    def __init__(self, at: Path) -> None:
        self.at = at
        self.data = str(at / "data")
        self._programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
        self._as_user = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
        self._environ = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C",
            "PGHOST": str(at),
            "PGDATABASE": "postgres",
        }

    def run(self, program: str, *words: str, status: int | None = 0) -> str:
        argv = (*self._as_user, str(self._programs / program), *words)
        found = run(argv, timeout=PATIENCE, env=self._environ)
        return found.out if status is None else found.check(status).out

    @contextmanager
    def serving(self) -> Iterator[Process]:
        where = ("-c", "listen_addresses=", "-c", f"unix_socket_directories={self.at}")
        argv = (*self._as_user, str(self._programs / "postgres"), "-D", self.data, *where)
        with (
            (self.at / "log").open("ab") as log,
            start(argv, env=self._environ, stdout=log, stderr=log) as process,
        ):
            ready = soon(lambda: self.run("pg_isready", status=None).endswith("accepting connections"))
            assert ready, (self.at / "log").read_text()
            yield process

    @staticmethod
    def kill(process: Process) -> None:
        """The server and what it has started, at once."""
        found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        children = [int(pid) for pid in found.split()]
        for pid in (process.pid, *children):
            os.kill(pid, signal.SIGKILL)
        process.wait(10)
        assert soon(lambda: all(_has_ended(pid) for pid in children))


def _has_ended(pid: int) -> bool:
    """Also where nobody has asked for its status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_postgresql(mount: ShareMount, host: Path) -> None:
    """Its data folder belongs to its user; what was committed outlives a crash."""
    guest = mount.path(host)
    shutil.chown(guest, "postgres", "postgres")
    server = Postgres(guest)
    server.run("initdb", "-D", server.data, "-k", "-A", "trust")
    assert (guest / "data").owner() == "postgres" and (guest / "data").stat().st_mode & 0o777 == 0o700
    with server.serving() as process:
        server.run("pgbench", "-i", "-q", "-s", "1")
        server.run("psql", "-c", "CREATE TABLE counted (number int)")
        server.kill(process)
    for turn in range(1, 3):
        with server.serving() as process:
            server.run("pgbench", "-n", "-c", "4", "-t", "50")
            server.run("psql", "-c", f"INSERT INTO counted SELECT generate_series(1, 1000) + {turn}")
            server.kill(process)
        with server.serving() as process:
            counts = "SELECT count(*), (SELECT count(*) FROM pgbench_history) FROM counted"
            assert server.run("psql", "-Atc", counts) == f"{1000 * turn}|{200 * turn}"
            server.run("pg_amcheck", "--install-missing", "--heapallindexed")
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
    server.run("pg_checksums", "-D", server.data, "--check")


# -- packages and watchers -------------------------------------------------------------------------


def test_npm_installs_what_it_installs_elsewhere(mount: ShareMount, host: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "package.json").write_text('{"name": "project", "version": "1.0.0"}')
    npm(plain, "install", EXPRESS)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(plain / name, host / name)
    guest = mount.path(host)
    npm(guest, "ci")
    assert tree(guest) == tree(plain) == tree(host)
    answered = run(("node", "-e", "console.log(typeof require('express')().listen)"), timeout=30, cwd=guest)
    assert answered.check().out == "function"
    npm(guest, "uninstall", "express")
    assert not (host / "node_modules/express").exists()


_CHOKIDAR = """
const {watch} = require('chokidar'), fs = require('fs');
const {relative} = require('path');
const tell = (kind, path) => console.log(JSON.stringify(
  [kind, relative('.', path), kind == 'add' || kind == 'change' ? fs.readFileSync(path, 'utf8') : null]));
watch('.', {ignored: /node_modules/}).on('all', tell).on('ready', () => tell('ready', ''));
"""
_WATCHDOG = """
import json, os
from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer
class Tell(FileSystemEventHandler):
    def on_any_event(self, event):
        content = None
        if event.event_type in ("created", "modified", "moved") and not event.is_directory:
            try:
                content = open(event.dest_path or event.src_path).read()
            except FileNotFoundError:
                pass
        print(json.dumps([event.event_type, event.dest_path or event.src_path, content]), flush=True)
observer = Observer()
observer.schedule(Tell(), ".", recursive=True)
observer.start()
print(json.dumps(["ready", "", None]), flush=True)
observer.join()
"""


class Told:
    """What a watcher prints: kind, path and content of each event, one a line."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self._lines = process.stdout
        os.set_blocking(self._lines.fileno(), False)
        self._rest = b""
        self.seen: list[list[Any]] = []

    def until(self, *wanted: tuple[str, str, str | None]) -> None:
        """Until all have come, in any order."""
        end = time.monotonic() + 20
        while not all(list(each) in self.seen for each in wanted):
            assert time.monotonic() < end, (wanted, self.seen)
            self._rest += self._lines.read() or b""
            *lines, self._rest = self._rest.split(b"\n")
            self.seen += [json.loads(line) for line in lines]
            time.sleep(0.01)


def _put(path: Path, content: str) -> None:
    """A new file that comes with its content: one still being written may be found empty."""
    part = path.with_name(".part")
    part.write_text(content)
    part.replace(path)


def test_chokidar_sees_what_the_host_does(mount: ShareMount, host: Path) -> None:
    guest = mount.path(host)
    (host / "package.json").write_text("{}")
    npm(guest, "install", "--silent", CHOKIDAR)
    (host / "sub/deep").mkdir(parents=True)
    (host / "sub/deep/there").write_text("there")
    with start(("node", "-e", _CHOKIDAR), cwd=guest, stderr=subprocess.STDOUT) as process:
        told = Told(process)
        told.until(("ready", "", None), ("add", "sub/deep/there", "there"))
        _put(host / "sub/new", "new")
        told.until(("add", "sub/new", "new"))
        (host / "sub/deep/there").write_text("changed")
        told.until(("change", "sub/deep/there", "changed"))
        (host / "sub/.saved").write_text("saved")
        (host / "sub/.saved").replace(host / "sub/new")
        told.until(("change", "sub/new", "saved"))
        (host / "sub/new").rename(host / "sub/renamed")
        told.until(("unlink", "sub/new", None), ("add", "sub/renamed", "saved"))
        (host / "more").mkdir()
        _put(host / "more/in", "in")
        told.until(("addDir", "more", None), ("add", "more/in", "in"))
        shutil.rmtree(host / "sub")
        told.until(("unlink", "sub/deep/there", None), ("unlinkDir", "sub", None))


def test_watchdog_sees_what_the_host_does(mount: ShareMount, host: Path, tmp_path: Path) -> None:
    guest = mount.path(host)
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run((*pip, "--target", str(tmp_path), WATCHDOG), timeout=PATIENCE).check()
    (host / "sub").mkdir()
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    argv = (sys.executable, "-c", _WATCHDOG)
    with start(argv, cwd=guest, stderr=subprocess.STDOUT, env=env) as process:
        told = Told(process)
        told.until(("ready", "", None))
        os.listdir(guest / "sub")
        (host / "sub/new").touch()  # what is written later may be told later
        told.until(("created", "./sub/new", ""))
        (host / "sub/new").write_text("changed")
        told.until(("modified", "./sub/new", "changed"))
        (host / "sub/new").rename(host / "sub/renamed")
        told.until(("moved", "./sub/renamed", "changed"))
        (host / "sub/renamed").unlink()
        told.until(("deleted", "./sub/renamed", None))


def test_a_dev_server_gives_what_was_just_saved(mount: ShareMount, host: Path) -> None:
    """Vite keeps what it has read until its watcher tells of a change."""
    guest = mount.path(host)
    (host / "package.json").write_text('{"type": "module"}')
    npm(guest, "install", "--silent", VITE)
    (host / "index.html").write_text('<script type="module" src="/main.js"></script>')
    (host / "main.js").write_text("import {text} from './text.js'; document.title = text;")
    (host / "text.js").write_text("export const text = 'first';")
    argv = ("node", "node_modules/vite/bin/vite.js", "--host", "127.0.0.1", "--port", "0")
    with start(argv, cwd=guest, stderr=subprocess.STDOUT, env={**os.environ, "NO_COLOR": "1"}) as process:
        address = _address(process)

        def served() -> str:
            with urllib.request.urlopen(f"{address}text.js", timeout=20) as answer:
                text: str = answer.read().decode()
                return text

        assert "first" in served()
        assert "first" in served()
        begin = itertools.count()
        # It does not say when it has begun to watch.
        assert soon(lambda: "begin" in _saved(host, f"begin {next(begin)}", served))
        for number in range(5):
            assert f"edit {number}" in _saved(host, f"edit {number}", served)
            assert f"save {number}" in _saved(host, f"save {number}", served, replaces=True)


def _saved(host: Path, text: str, served: Callable[[], str], *, replaces: bool = False) -> str:
    """What is served once it is saved. Not faster than a person: Vite takes two within 50 ms as one."""
    time.sleep(0.2)
    new = host / (".text.js" if replaces else "text.js")
    new.write_text(f"export const text = '{text}';")
    new.replace(host / "text.js")
    soon(lambda: text in served())
    return served()


def _address(process: Process) -> str:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line.decode())
        if "Local:" in seen[-1]:
            return seen[-1].split("Local:")[1].strip()
    raise AssertionError("".join(seen))
