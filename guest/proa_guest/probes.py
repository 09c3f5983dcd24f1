"""How init sees whether a service still answers: one question at a time, and it never waits for long."""

from __future__ import annotations

import _socket
import os
import select

PATIENCE = 0.05  # seconds that a look waits for an answer; one that comes later is taken by the next look
MOST_ANSWER = 512
# What a gRPC server must answer with its own settings (RFC 9113, 3.4): the kernel alone accepts
# connections for a process that is stopped, so to be accepted proves nothing.
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_PING = b"GET /_ping HTTP/1.0\r\n\r\n"


def _is_settings(answer: bytes) -> bool:
    return len(answer) >= 9 and answer[3] == 4


def _is_pong(answer: bytes) -> bool:
    return b" 200 " in answer


_KINDS = {"grpc": (_HTTP2, _is_settings), "http": (_PING, _is_pong)}


class SocketProbe:
    """Asks a service on its Unix socket; the question stays open until it is answered or refused."""

    def __init__(self, path: str, kind: str) -> None:
        self._path = path
        self._question, self._is_good = _KINDS[kind]
        self._open: _socket.socket | None = None

    def look(self) -> bool:
        """True if the service answered."""
        try:
            if self._open is None:
                self._open = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
                self._open.setblocking(False)
                self._open.connect(self._path)
                self._open.send(self._question)
            if not select.select([self._open], [], [], PATIENCE)[0]:
                return False
            answer = self._open.recv(MOST_ANSWER)
        except OSError:
            answer = b""
        self.forget()
        return self._is_good(answer)

    def forget(self) -> None:
        """Drop the open question: the process that it was put to is gone."""
        if self._open is not None:
            self._open.close()
            self._open = None


class BeatProbe:
    """Sees a process that touches a file as long as it is well: the guest agent has no socket in this
    network namespace."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen = 0

    def look(self) -> bool:
        try:
            touched = os.stat(self._path).st_mtime_ns  # noqa: PTH116
        except OSError:
            return False
        news = touched != self._seen
        self._seen = touched
        return news

    def forget(self) -> None:
        """Nothing is open; the next process touches the file anew."""
