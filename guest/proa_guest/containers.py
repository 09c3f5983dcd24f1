"""Stopping all containers as a power-off would, and starting those that a power-on would bring back.

The engine's API marks what it stops as stopped by hand, so the engine itself would not start it again:
which containers a reboot brings back is noted on the data disk before, and applied after.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable

NOTE = "/var/lib/proa/bring-back.json"
NOTE_VERSION = 1
DONE_MARK = "/run/proa/brought-back"  # in memory: this boot has applied the note
STORE = "/var/lib/docker/containers"
SWARM = "../swarm/docker-state.json"  # from the store: there while the engine is part of a swarm
ANSWER_TIMEOUT = 30.0
BRING_BACK_TIMEOUT = 120.0
KEPT_TIMEOUT = 10.0
AT_ONCE = 16
MOST_ANSWER = 32 << 20

Tree = dict[str, object]


def comes_back(container: Tree, host: Tree, *, was_running: bool) -> bool:
    """Whether the engine starts a container when it starts itself (moby: restartmanager, ShouldRestart).

    `container` and `host` are the engine's config.v2.json and hostconfig.json of a stopped container;
    `was_running` says that only our stop ended it, so that it does not count as stopped by hand.
    """
    if not container.get("HasBeenStartedBefore"):
        return False
    policy = _tree(host.get("RestartPolicy"))
    name = policy.get("Name")
    if name == "always":
        return True
    if name == "unless-stopped":
        return was_running or not container.get("HasBeenManuallyStopped")
    if name == "on-failure":
        most, count = policy.get("MaximumRetryCount") or 0, container.get("RestartCount") or 0
        assert isinstance(most, int) and isinstance(count, int)
        failed = _tree(container.get("State")).get("ExitCode") != 0
        return failed and (most == 0 or count < most)
    return False


def _tree(value: object) -> Tree:
    return value if isinstance(value, dict) else {}


class Containers:
    """Through the engine's socket and its store on disk."""

    def __init__(self, engine: str, store: str = STORE, note: str = NOTE, mark: str = DONE_MARK) -> None:
        self._engine = engine
        self._store = store
        self._note = note
        self._mark = mark

    def halt(self, timeout: float) -> Tree:
        """Note, stop all within `timeout` seconds, note again with their exit statuses. Raises OSError.

        The first note is for a crash in between. A swarm would start others for those that are stopped, so
        it is refused.
        """
        if os.path.exists(f"{self._store}/{SWARM}"):  # noqa: PTH110
            raise OSError("the engine is part of a swarm")
        running = self._running()
        due = self._due(running)
        if not running and not due:
            return {"stopped": 0}  # nothing to note, and nothing to read at the next start
        self._write_note([*due, *running])
        failed = _each(running, lambda name: self._ask("POST", f"/containers/{name}/stop", timeout), timeout)
        if failed:
            raise OSError(f"{len(failed)} containers did not stop: {failed[0][:12]}")
        self._wait_until_kept(running)
        self._write_note(self._due(running))
        return {"stopped": len(running)}

    def noted(self) -> bool:
        """Whether there is a note, which `bring_back` would apply."""
        return os.path.exists(self._note)  # noqa: PTH110

    def bring_back(self) -> Tree:
        """Start what the note names, and forget it. Raises OSError where the engine does not answer."""
        names = self._read_note()
        if not self.noted():
            return {"started": 0, "not_started": []}
        # One that shares another's network can only start after it: a second try.
        failed = _each(names, self._start, BRING_BACK_TIMEOUT)
        if failed:
            failed = _each(failed, self._start, BRING_BACK_TIMEOUT)
        self._forget()
        return {"started": len(names) - len(failed), "not_started": failed}

    def first_start(self) -> None:
        """In a cold start, once the engine answers: apply a note that a warm stop left."""
        if os.path.exists(self._mark):  # noqa: PTH110
            return
        os.close(os.open(self._mark, os.O_WRONLY | os.O_CREAT, 0o600))
        if self.noted():
            self.bring_back()

    # -- what there is ------------------------------------------------------------------------

    def _running(self) -> list[str]:
        """Ids of containers with processes, those first that were started first."""
        filters = '{"status":["running","paused","restarting"]}'
        status, body = self._ask("GET", f"/containers/json?filters={_quoted(filters)}", ANSWER_TIMEOUT)
        found = json.loads(body) if status == 200 else None
        if not isinstance(found, list):
            raise OSError(f"the engine does not list its containers: status {status}")
        names = [str(row["Id"]) for row in found]
        return sorted(names, key=lambda name: str(_tree(self._read(name)[0].get("State")).get("StartedAt")))

    def _wait_until_kept(self, names: list[str]) -> None:
        """The engine answers a stop a moment before it has written how the container ended."""
        deadline = time.monotonic() + KEPT_TIMEOUT
        while time.monotonic() < deadline:
            if not any(_tree(self._read(name)[0].get("State")).get("Running") for name in names):
                return
            time.sleep(0.02)

    def _due(self, was_running: list[str]) -> list[str]:
        """Ids that a reboot would bring back, as far as they are stopped now."""
        order = {name: number for number, name in enumerate(was_running)}
        with os.scandir(self._store) as entries:
            names = [entry.name for entry in entries]
        due = []
        for name in sorted(names, key=lambda name: (order.get(name, len(order)), name)):
            container, host = self._read(name)
            if comes_back(container, host, was_running=name in order):
                due.append(name)
        return due

    def _read(self, name: str) -> tuple[Tree, Tree]:
        found = []
        for file in ("config.v2.json", "hostconfig.json"):
            try:
                with open(f"{self._store}/{name}/{file}", encoding="utf-8") as text:  # noqa: PTH123
                    found.append(_tree(json.load(text)))
            except (OSError, ValueError):
                found.append({})  # it is being removed
        return found[0], found[1]

    def _start(self, name: str) -> tuple[int, bytes]:
        return self._ask("POST", f"/containers/{name}/start", ANSWER_TIMEOUT)

    # -- the note -----------------------------------------------------------------------------

    def _write_note(self, names: list[str]) -> None:
        content = {"version": NOTE_VERSION, "containers": list(dict.fromkeys(names))}
        partial = self._note + ".new"
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(handle, json.dumps(content).encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(partial, self._note)  # noqa: PTH105
        self._sync_folder()

    def _read_note(self) -> list[str]:
        try:
            with open(self._note, encoding="utf-8") as file:  # noqa: PTH123
                content = json.load(file)
        except (FileNotFoundError, ValueError):
            return []  # written whole or not at all: then there is none of ours
        names = content.get("containers") if isinstance(content, dict) else None
        return [str(name) for name in names] if isinstance(names, list) else []

    def _forget(self) -> None:
        try:
            os.unlink(self._note)  # noqa: PTH108
        except FileNotFoundError:
            return
        self._sync_folder()

    def _sync_folder(self) -> None:
        handle = os.open(os.path.dirname(self._note), os.O_RDONLY)  # noqa: PTH120
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    # -- the engine ---------------------------------------------------------------------------

    def _ask(self, method: str, path: str, timeout: float) -> tuple[int, bytes]:
        """Status and body of the engine's answer. Raises OSError."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(self._engine)
            # In HTTP/1.0 the answer ends with the connection.
            connection.sendall(f"{method} {path} HTTP/1.0\r\nContent-Length: 0\r\n\r\n".encode())
            answer = bytearray()
            while data := connection.recv(64 << 10):
                answer += data
                if len(answer) > MOST_ANSWER:
                    raise OSError("the engine's answer is too long")
        finally:
            connection.close()
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        words = head.split(b" ", 2)
        if len(words) < 3 or not words[1].isdigit():
            raise OSError("the engine's answer is not one")
        return int(words[1]), body


def _quoted(text: str) -> str:
    return "".join(char if char.isalnum() else f"%{ord(char):02X}" for char in text)


def _each(names: list[str], work: Callable[[str], tuple[int, bytes]], timeout: float) -> list[str]:
    """Do `work` for all, several at once, begun in order; the names for which it failed or was late.

    That the engine knows no such container, or that nothing is to be done, is no failure.
    """
    failed = dict.fromkeys(names)
    waiting = iter(names)
    lock = threading.Lock()

    def go_on() -> None:
        while True:
            with lock:
                name = next(waiting, None)
            if name is None:
                return
            try:
                status, _ = work(name)
            except OSError:
                continue
            if status < 400 or status == 404:
                with lock:
                    failed.pop(name, None)

    threads = [threading.Thread(target=go_on, daemon=True) for _ in range(min(AT_ONCE, len(names)))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    with lock:
        return list(failed)
