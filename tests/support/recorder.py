"""Between a real client and an engine's socket: passes bytes on as they come, and keeps who said what."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.conversations import mask

# What differs between two runs of the same client by nature, besides dates, ids and addresses.
_CHANCE = (
    (re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), b"<uuid>"),
    (re.compile(rb'"(NFd|NGoroutines|NEventsListener)":[0-9]+'), rb'"\1":<number>'),
    (re.compile(rb'"Status":"Up [^"]*"'), b'"Status":"Up <duration>"'),
    (re.compile(rb":[0-9]+->"), b":<port>->"),
    (re.compile(rb"(?im)^X-Docker-Expose-Session-Grpc-Method: [^\r\n]*\r\n"), b""),  # in any order
    (re.compile(rb"(since|until)=[0-9.]+"), rb"\1=<time>"),
    (
        re.compile(rb"(?im)^(X-Docker-Expose-Session-\w+|Traceparent): [^\r\n]*"),
        rb"\1: <x>",
    ),
    (re.compile(rb"\d+(\.\d+)?(ms|s|us|\xc2\xb5s)\b"), b"<duration>"),
)


_REQUEST = re.compile(rb"(GET|HEAD|POST|PUT|DELETE) [^ ]+ HTTP/1\.1\r\n")


_MULTIPLEXED = re.compile(
    rb"^HTTP/1\.1 101 .*\r\nContent-Type: application/vnd\.docker\.multiplexed", re.DOTALL
)


def _merged(data: bytes) -> bytes:
    """Frames of output (stream, three zeros, length in 4 bytes, content), with those of one stream that
    follow each other made one: where the engine cuts what a command writes is chance."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at + 8 <= len(data):
        stream, size = data[at], int.from_bytes(data[at + 4 : at + 8], "big")
        before = found.pop()[1] if found and found[-1][0] == stream else b""
        found.append((stream, before + data[at + 8 : at + 8 + size]))
        at += 8 + size
    return b"".join(b"<stream %d>%s" % frame for frame in found) + data[at:]


def without_chance(data: bytes) -> bytes:
    for pattern, mark in _CHANCE:
        data = pattern.sub(mark, data)
    return re.sub(rb"<id\d+>", b"<id>", mask(data, {}, lengths=False))


Exchange = tuple[tuple[str, bytes], ...]  # a request, its answer, and what followed raw: who, and the bytes


@dataclass
class Connection:
    """One connection's bytes, by turns: the client's, the engine's, the client's …"""

    turns: list[tuple[str, bytearray]] = field(default_factory=list)

    def add(self, who: str, data: bytes) -> None:
        if not self.turns or self.turns[-1][0] != who:
            self.turns.append((who, bytearray()))
        self.turns[-1][1].extend(data)

    def exchanges(self) -> list[Exchange]:
        """Without what chance makes of them. Of what is spoken behind `Upgrade: h2c` nothing is kept but
        that it was: its frames come as both sides' threads have them."""
        found: list[list[tuple[str, bytes]]] = []
        raw = False  # from here on it speaks frames
        for who, data in self.turns:
            raw = raw and not _REQUEST.match(data)
            head, end, rest = (b"", b"", bytes(data)) if raw else bytes(data).partition(b"\r\n\r\n")
            raw = raw or _MULTIPLEXED.search(head) is not None
            plain = without_chance(head + end + (_merged(rest) if raw and who == "engine" else rest))
            if b"Upgrade: h2c" in plain and who == "engine":
                found[-1].append((who, plain.partition(b"\r\n\r\n")[0]))
                break
            if who == "client" and _REQUEST.match(plain):
                found.append([])
            found[-1].append((who, plain))
        return [tuple(exchange) for exchange in found]


class Recorder:
    """The socket `path`, which leads to `target`."""

    def __init__(self, path: Path, target: Path) -> None:
        self.socket = path
        self._target = target
        self._lock = threading.Lock()
        self._connections: list[Connection] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket))
        self._listener.listen(128)
        self._start(self._accept)

    def exchanges(self) -> list[Exchange]:
        """On all connections; which of a client's threads uses which is chance."""
        for thread in self._threads[1:]:
            thread.join(20)
            assert not thread.is_alive(), "a connection of a client that has ended is still open"
        return [exchange for connection in self._connections for exchange in connection.exchanges()]

    def close(self) -> None:
        with contextlib.suppress(OSError):  # wakes the thread that accepts
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(5)
        self.socket.unlink()

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(str(self._target))
            connection = Connection()
            self._connections.append(connection)
            self._start(self._pass, connection, "client", client, engine)
            self._start(self._pass, connection, "engine", engine, client)

    def _pass(self, connection: Connection, who: str, source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                with self._lock:
                    connection.add(who, data)
                to.sendall(data)
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def recorded(path: Path, target: Path) -> Iterator[Recorder]:
    recorder = Recorder(path, target)
    try:
        yield recorder
    finally:
        recorder.close()
