"""Which containers a reboot brings back; and stopping and starting them through an engine's socket."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proa_guest.containers import Containers, comes_back


@pytest.mark.parametrize(
    ("policy", "most", "count", "by_hand", "status", "was_running", "back"),
    [
        ("no", 0, 0, False, 0, True, False),
        ("", 0, 0, False, 1, True, False),
        ("always", 0, 0, False, 0, True, True),
        ("always", 0, 0, True, 0, False, True),  # the engine does so, by hand or not
        ("unless-stopped", 0, 0, False, 137, True, True),
        ("unless-stopped", 0, 0, True, 137, True, True),  # it was our stop that set the mark
        ("unless-stopped", 0, 0, True, 137, False, False),
        ("unless-stopped", 0, 0, False, 0, False, True),
        ("on-failure", 0, 7, False, 143, True, True),
        ("on-failure", 0, 0, False, 0, True, False),
        ("on-failure", 3, 2, False, 1, False, True),
        ("on-failure", 3, 3, False, 1, False, False),
    ],
)
def test_as_the_engine_itself_would(
    policy: str, most: int, count: int, by_hand: bool, status: int, was_running: bool, back: bool
) -> None:
    container: dict[str, object] = {
        "HasBeenStartedBefore": True,
        "HasBeenManuallyStopped": by_hand,
        "RestartCount": count,
        "State": {"ExitCode": status},
    }
    host: dict[str, object] = {"RestartPolicy": {"Name": policy, "MaximumRetryCount": most}}
    assert comes_back(container, host, was_running=was_running) is back
    container["HasBeenStartedBefore"] = False
    assert not comes_back(container, host, was_running=was_running), "what never ran does not start"


class FakeEngine:
    """Answers on a socket and keeps its store as dockerd does: only what is asked of it here."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "containers"
        self.store.mkdir()
        self.socket = folder / "engine.sock"
        self.note = folder / "note.json"
        self.asked: list[str] = []
        self.stuck: set[str] = set()
        self.late = False
        engine = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                line = self.rfile.readline().decode()
                while self.rfile.readline().strip():
                    pass
                method, path, _ = line.split()
                status, body = engine.answer(method, path)
                self.wfile.write(f"HTTP/1.0 {status} X\r\nServer: x\r\n\r\n".encode() + body)

        self.server = socketserver.ThreadingUnixStreamServer(str(self.socket), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(
        self, name: str, policy: str, *, running: bool, by_hand: bool = False, started: str = "1"
    ) -> None:
        (self.store / name).mkdir()
        self.write(
            name,
            {
                "HasBeenStartedBefore": True,
                "HasBeenManuallyStopped": by_hand,
                "RestartCount": 0,
                "State": {"Running": running, "ExitCode": 0, "StartedAt": started},
            },
        )
        (self.store / name / "hostconfig.json").write_text(json.dumps({"RestartPolicy": {"Name": policy}}))

    def read(self, name: str) -> dict[str, dict[str, object]]:
        found: dict[str, dict[str, object]] = json.loads((self.store / name / "config.v2.json").read_text())
        return found

    def write(self, name: str, content: object) -> None:
        (self.store / name / "config.v2.json").write_text(json.dumps(content))

    def running(self) -> list[str]:
        return sorted(path.name for path in self.store.iterdir() if self.read(path.name)["State"]["Running"])

    def answer(self, method: str, path: str) -> tuple[int, bytes]:
        self.asked.append(f"{method} {path.partition('?')[0]}")
        if path.startswith("/containers/json"):
            return 200, json.dumps([{"Id": name} for name in self.running()]).encode()
        _, _, name, verb = path.split("/")
        if name in self.stuck:
            return 500, b"{}"
        if not (self.store / name).is_dir():
            return 404, b"{}"
        content = self.read(name)
        content["State"]["Running"] = verb == "start"
        content["State"]["ExitCode"] = 0 if verb == "start" else 137
        ended = {**content, "HasBeenManuallyStopped": verb == "stop"}
        if self.late:  # as the engine: it answers first, and writes then
            threading.Timer(0.3, self.write, (name, ended)).start()
        else:
            self.write(name, ended)
        return 204, b""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    engine = FakeEngine(tmp_path)
    yield engine
    engine.server.shutdown()
    engine.server.server_close()


@pytest.fixture
def containers(engine: FakeEngine, tmp_path: Path) -> Containers:
    return Containers(str(engine.socket), str(engine.store), str(engine.note), str(tmp_path / "mark"))


def noted(engine: FakeEngine) -> list[str]:
    names: list[str] = json.loads(engine.note.read_text())["containers"]
    return names


def test_how_a_container_ended_is_waited_for(engine: FakeEngine, containers: Containers) -> None:
    engine.add("failed", "on-failure", running=True)
    engine.late = True
    containers.halt(5)
    assert noted(engine) == ["failed"], "it ended with 137, which the engine wrote a moment later"


def test_halt_and_bring_back(engine: FakeEngine, containers: Containers) -> None:
    engine.add("b", "unless-stopped", running=True, started="2")
    engine.add("a", "unless-stopped", running=True, started="1")
    engine.add("failed", "on-failure", running=True, started="3")
    engine.add("plain", "no", running=True)
    engine.add("off", "unless-stopped", running=False, by_hand=True)
    assert containers.halt(10) == {"stopped": 4}
    assert engine.running() == []
    assert noted(engine) == ["a", "b", "failed"], "in the order they were started in"
    assert containers.bring_back() == {"started": 3, "not_started": []}
    assert engine.running() == ["a", "b", "failed"]
    assert not engine.note.exists()


def test_the_note_is_there_before_the_first_container_stops(
    engine: FakeEngine, containers: Containers
) -> None:
    engine.add("a", "unless-stopped", running=True)
    engine.stuck = {"a"}
    with pytest.raises(OSError, match="did not stop"):
        containers.halt(10)
    assert noted(engine) == ["a"]
    assert engine.note.stat().st_mode & 0o077 == 0


def test_a_swarm_is_powered_off_instead(engine: FakeEngine, containers: Containers) -> None:
    engine.add("a", "always", running=True)
    (engine.store.parent / "swarm").mkdir()
    (engine.store.parent / "swarm/docker-state.json").touch()
    with pytest.raises(OSError, match="swarm"):
        containers.halt(10)
    assert engine.running() == ["a"] and not engine.note.exists()


def test_without_containers_there_is_no_note(engine: FakeEngine, containers: Containers) -> None:
    engine.add("off", "unless-stopped", running=False, by_hand=True)
    assert containers.halt(10) == {"stopped": 0}
    assert not engine.note.exists()
    assert containers.bring_back() == {"started": 0, "not_started": []}


def test_what_was_removed_meanwhile_is_no_failure(engine: FakeEngine, containers: Containers) -> None:
    engine.note.write_text(json.dumps({"version": 1, "containers": ["gone"]}))
    assert containers.bring_back() == {"started": 1, "not_started": []}


def test_one_that_needs_another_is_tried_again(engine: FakeEngine, containers: Containers) -> None:
    engine.add("a", "always", running=False)
    engine.stuck = {"a"}
    engine.note.write_text(json.dumps({"version": 1, "containers": ["a"]}))
    assert containers.bring_back() == {"started": 0, "not_started": ["a"]}
    assert engine.asked.count("POST /containers/a/start") == 2


def test_a_cold_start_applies_the_note_once(engine: FakeEngine, containers: Containers) -> None:
    engine.add("a", "unless-stopped", running=False, by_hand=True)
    engine.note.write_text(json.dumps({"version": 1, "containers": ["a"]}))
    containers.first_start()
    assert engine.running() == ["a"] and not engine.note.exists()
    engine.note.write_text(json.dumps({"version": 1, "containers": ["a"]}))
    asked = len(engine.asked)
    containers.first_start()  # the guest agent was started again, in the middle of a warm stop
    assert len(engine.asked) == asked and engine.note.exists()


def test_a_broken_note_is_none(engine: FakeEngine, containers: Containers) -> None:
    for text in ("", "{", "[]", '{"containers": 3}'):
        engine.note.write_text(text)
        assert containers.bring_back() == {"started": 0, "not_started": []}


def test_an_engine_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Containers(str(tmp_path / "none.sock"), str(tmp_path), str(tmp_path / "n")).halt(5)
