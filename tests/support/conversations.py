"""Recorded conversations with an engine: raw bytes both ways, without ids and dates."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 20.0  # seconds for whatever is to come; natively it comes in milliseconds
_MASKS = (
    (re.compile(rb"(?m)^Date: [^\r\n]*"), b"Date: <date>"),
    (re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"), b"<time>"),
    (re.compile(rb'"(time|timeNano|Created|StartedAt|Pid|CreatedAt)":\d+'), rb'"\1":<number>'),
    (re.compile(rb'"(MacAddress|IPAddress)":"[^"]+"'), rb'"\1":"<address>"'),
)
_LENGTHS = (
    (re.compile(rb"(?m)^Content-Length: \d+"), b"Content-Length: <length>"),
    (re.compile(rb"(?m)^[0-9a-f]{1,8}\r\n"), b"<chunk>\r\n"),
)
_ID = re.compile(rb"\b([0-9a-f]{12})([0-9a-f]{52})?\b")


@dataclass
class Peer:
    """One client's connection. `said` is the transcript: what happened, in order, with its bytes."""

    connection: socket.socket
    said: list[tuple[str, bytes]] = field(default_factory=list)
    _held: bytes = b""

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def until(self, pattern: bytes) -> bytes:
        """Read up to the pattern's first match and no further, for the transcript at least."""
        wanted = re.compile(pattern, re.DOTALL)
        while (match := wanted.search(self._held)) is None:
            data = self._receive()
            assert data, f"it ended before {pattern!r}: {self._held[-2000:]!r}"
            self._held += data
        got, self._held = self._held[: match.end()], self._held[match.end() :]
        self.said.append(("got", got))
        return got

    def head(self) -> bytes:
        return self.until(rb"\r\n\r\n")

    def answer(self) -> bytes:
        """An answer with its body, by whichever of the two framings it has; the body is returned."""
        head = self.head()
        if b" 304 " in head or b" 204 " in head:
            return b""
        if match := re.search(rb"Content-Length: (\d+)", head):
            return self._exactly(int(match[1]))
        if b"Transfer-Encoding: chunked" in head:
            return self.until(rb"(?:^|\r\n)0\r\n\r\n")
        return b""

    def _exactly(self, size: int) -> bytes:
        while len(self._held) < size:
            data = self._receive()
            assert data, f"it ended before {size} bytes: {self._held[-2000:]!r}"
            self._held += data
        got, self._held = self._held[:size], self._held[size:]
        self.said.append(("got", got))
        return got

    def rest(self) -> bytes:
        """Everything until the other side ends, and how it ended."""
        how = "eof"
        while True:
            try:
                data = self._receive()
            except ConnectionResetError:
                how = "reset"
                break
            if not data:
                break
            self._held += data
        got, self._held = self._held, b""
        self.said.append((how, got))
        return got

    def silent(self, seconds: float) -> None:
        """Nothing is to come for that long."""
        self.connection.settimeout(seconds)
        try:
            data = self.connection.recv(1)
        except TimeoutError:
            data = b"(silence)"
        finally:
            self.connection.settimeout(PATIENCE)
        self.said.append(("silence", data))

    def half_close(self) -> None:
        self.connection.shutdown(socket.SHUT_WR)

    def _receive(self) -> bytes:
        return self.connection.recv(1 << 16)


class Stage:
    """An engine's socket, and what a conversation needs to be made there first."""

    def __init__(self, path: Path, image: str) -> None:
        self.path = path
        self.image = image
        self.said: list[list[tuple[str, bytes]]] = []
        self._made: list[str] = []

    @contextmanager
    def peer(self) -> Iterator[Peer]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self.path))
            peer = Peer(connection)
            self.said.append(peer.said)
            yield peer

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """A plain request outside the transcript; its JSON."""
        connection = http.client.HTTPConnection("engine", timeout=PATIENCE)
        with socket.socket(socket.AF_UNIX) as connected:
            connected.settimeout(PATIENCE)
            connected.connect(str(self.path))
            connection.sock = connected
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
            assert response.status < 400, (path, response.status, content)
            return json.loads(content) if content.strip() else None

    def container(self, *command: str, start: bool = True, **config: Any) -> str:
        """A container of the test's image; its id."""
        name = f"conversation-{len(self._made)}"
        wanted = {"Image": self.image, "Cmd": command, **config}
        made = self.ask("POST", f"/containers/create?name={name}", wanted)["Id"]
        self._made.append(made)
        if start:
            self.ask("POST", f"/containers/{made}/start")
        return str(made)

    def execution(self, container: str, *command: str, **config: Any) -> str:
        wanted = {"AttachStdout": True, "AttachStderr": True, "Cmd": command, **config}
        return str(self.ask("POST", f"/containers/{container}/exec", wanted)["Id"])

    def sweep(self) -> None:
        for container in self._made:
            self.ask("DELETE", f"/containers/{container}?force=1&v=1")
        self._made.clear()

    def transcript(self, *, lengths: bool = True) -> list[list[tuple[str, bytes]]]:
        """All that was said, masked. Without `lengths` those are masked too: dates change them."""
        ids: dict[bytes, bytes] = {}
        return [[(how, mask(got, ids, lengths)) for how, got in said] for said in self.said]


def mask(data: bytes, ids: dict[bytes, bytes], lengths: bool) -> bytes:
    """What differs between two runs by nature; the same id stays the same mark."""
    for pattern, mark in _MASKS if lengths else (*_MASKS, *_LENGTHS):
        data = pattern.sub(mark, data)
    return _ID.sub(lambda match: ids.setdefault(match[1], b"<id%d>" % len(ids)), data)


def request(
    line: str, body: bytes | None = None, *headers: str, host: str = "docker", version: str = "1.1"
) -> bytes:
    """A request's bytes, its length said where there is a body."""
    lines = [f"{line} HTTP/{version}", *([f"Host: {host}"] if host else []), *headers]
    if body is not None and not any(name.lower().startswith("transfer-encoding") for name in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def chunked(data: bytes, *sizes: int) -> bytes:
    """The data as chunks of these sizes in turn, the last of them repeated."""
    out, at, number = b"", 0, 0
    while at < len(data):
        size = sizes[min(number, len(sizes) - 1)]
        piece = data[at : at + size]
        out += b"%x\r\n%s\r\n" % (len(piece), piece)
        at, number = at + size, number + 1
    return out + b"0\r\n\r\n"
