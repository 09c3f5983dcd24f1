"""The control stream: what the guest knows of itself, told on every change; and a few orders."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Mapping

from proa_guest import wire
from proa_guest.supervisor import REST

VERSION = "2"  # of what the control stream takes: from 2 on it knows proa_guest.sleep's orders
SOON, LATER = 0.1, 1.0  # seconds between looks while something comes up, and after that
PING_TIMEOUT = 5.0
LOGS = ("agent", "containerd", "dockerd", "welcome")
MOST_LINES = 10_000
TAIL = 512 << 10  # bytes of a log that are looked at
MOST_TEXT = 160 << 10  # characters of an answer: six bytes each, at worst, fit into a message
INIT_PID = 1


class Facts:
    """The guest's state, and who wants to hear of its changes."""

    def __init__(
        self,
        init_state: str,
        engine: str,
        logs: str,
        beat: str = "",
        before_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`before_ready` is called (in a thread) before the engine is first told to be ready."""
        self._init_state = init_state
        self._engine_socket = engine
        self._logs = logs
        self._beat_file = beat
        self._seen = (0, 0)
        self._init: dict[str, object] = {}
        self._engine = "starting"
        self._before_ready = before_ready
        self._told = ""
        self._rests_until = 0.0
        self.listeners: set[ControlEnd] = set()

    def status(self) -> dict[str, object]:
        nothing: dict[str, object] = {"state": "starting", "message": ""}
        return {
            "agent": VERSION,
            "uptime": round(time.clock_gettime(time.CLOCK_BOOTTIME), 1),
            "time": time.time(),
            "services": self._init.get("services", {}),
            "disk": self._init.get("disk", {**nothing, "size": 0, "free": 0}),
            "network": self._init.get("network", nothing),
            "engine": {"state": self._engine},
            "memory": self._init.get("memory", {"kills": 0, "victim": "", "at": 0.0}),
        }

    async def watch(self) -> None:
        """Look at init's state and at the engine for ever, and tell what changed."""
        while True:
            self._beat()
            self._read()
            await self.ping()
            status = self.status()
            told = json.dumps([status[name] for name in ("services", "disk", "network", "engine", "memory")])
            if told != self._told:
                self._told = told
                for listener in list(self.listeners):
                    listener.send({"event": "status", **status})
            await asyncio.sleep(LATER if self._engine == "ready" else SOON)
            await asyncio.sleep(max(0.0, self._rests_until - asyncio.get_running_loop().time()))

    def rest(self) -> None:
        """The guest is about to be saved: look at nothing for a while, and have init do so."""
        self._rests_until = asyncio.get_running_loop().time() + REST
        if self._beat_file:  # else init is not ours
            os.kill(INIT_PID, signal.SIGUSR1)

    def _beat(self) -> None:
        """Show init that this process is well: it ends and restarts an agent that is not."""
        if not self._beat_file:
            return
        try:
            os.utime(self._beat_file)
        except FileNotFoundError:
            os.close(os.open(self._beat_file, os.O_WRONLY | os.O_CREAT, 0o600))

    def _read(self) -> None:
        try:
            found = os.stat(self._init_state)  # noqa: PTH116
            if (found.st_mtime_ns, found.st_ino) == self._seen:
                return
            with open(self._init_state, encoding="utf-8") as file:  # noqa: PTH123
                content = json.load(file)
        except (OSError, ValueError):
            return  # init writes it whole; before its first word there is none
        self._seen = (found.st_mtime_ns, found.st_ino)
        self._init = content if isinstance(content, dict) else {}

    async def ping(self) -> str:
        """`ready` if the engine answers; `silent` once it did and does no more; `starting` before."""
        loop = asyncio.get_running_loop()
        # Without a transport: a guest that was just restored asks before anybody is told that it runs.
        engine = socket.socket(socket.AF_UNIX)
        engine.setblocking(False)
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                await loop.sock_connect(engine, self._engine_socket)
                await loop.sock_sendall(engine, b"GET /_ping HTTP/1.0\r\n\r\n")
                answer = await loop.sock_recv(engine, 64)
        except (OSError, TimeoutError):
            answer = b""
        finally:
            engine.close()
        if b" 200 " in answer:
            if self._engine == "starting":
                await asyncio.to_thread(self._prepare)
            self._engine = "ready"
        elif self._engine == "ready":
            self._engine = "silent"
        return self._engine

    def _prepare(self) -> None:
        try:
            self._before_ready()
        except OSError as error:
            sys.stderr.write(f"agent: containers are not brought back: {error}\n")

    def tail(self, name: str, lines: int) -> list[str]:
        """The last lines of a log that fit into an answer. Raises WireError for a file that is none."""
        if name not in LOGS:
            raise wire.WireError(f"there is no log {name[:40]!r}")
        try:
            with open(f"{self._logs}/{name}.log", "rb") as file:  # noqa: PTH123
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
                text = file.read(TAIL).decode("utf-8", "replace")
        except OSError:
            return []
        found: list[str] = []
        room = MOST_TEXT
        for line in reversed([line[:4000] for line in text.split("\n") if line.strip()][-lines:]):
            room -= len(line)
            if room < 0:
                break
            found.append(line)
        return found[::-1]


Work = Coroutine[object, object, None]
Order = Callable[[dict[str, object], asyncio.Transport], Coroutine[object, object, dict[str, object]]]


class ControlEnd(asyncio.Protocol):
    """One control stream."""

    def __init__(
        self,
        facts: Facts,
        orders: Mapping[str, Order] | None = None,
        start: Callable[[Work, str], None] | None = None,
    ) -> None:
        """`orders` take their time and are carried out as tasks of `start`."""
        self._facts = facts
        self._orders = orders or {}
        self._start = start
        self._messages = wire.Messages()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._facts.listeners.add(self)
        self.send({"event": "status", **self._facts.status()})

    def connection_lost(self, error: Exception | None) -> None:
        self._facts.listeners.discard(self)
        self._transport = None

    def send(self, content: dict[str, object]) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > wire.MAX_MESSAGE:
            self._transport.abort()  # a host that does not read is told nothing more
            return
        self._transport.write(wire.message(content))

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            for content in self._messages.feed(data):
                order = self._orders.get(str(content.get("op")))
                if order is not None and self._start is not None:
                    self._start(self._carry_out(order, content), f"order {content.get('op')}")
                else:
                    self.send({"id": content.get("id"), **self._answer(content)})
        except wire.WireError:
            self._transport.abort()

    async def _carry_out(self, order: Order, content: dict[str, object]) -> None:
        transport = self._transport
        assert transport is not None
        try:
            answer = await order(content, transport)
        except (OSError, wire.WireError) as error:
            answer = {"failed": str(error)}
        self.send({"id": content.get("id"), **answer})

    def _answer(self, content: dict[str, object]) -> dict[str, object]:
        operation = content.get("op")
        if operation == "status":
            return self._facts.status()
        if operation == "log":
            lines = content.get("lines")
            count = lines if isinstance(lines, int) and 0 < lines <= MOST_LINES else 100
            return {"lines": self._facts.tail(str(content.get("name")), count)}
        if operation == "poweroff":
            os.kill(INIT_PID, signal.SIGTERM)
            return {"done": True}
        if operation == "set-time":
            wanted = content.get("time")
            if not isinstance(wanted, (int, float)) or not 0 < wanted < 1 << 40:
                raise wire.WireError("that is no time")
            time.clock_settime(time.CLOCK_REALTIME, wanted)
            return {"done": True}
        raise wire.WireError("there is no such order")
