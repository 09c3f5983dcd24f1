"""HTTP/1.1 in pieces, sans-IO: heads are parsed, bodies are followed and pass as their own bytes.

Heads as nearly all clients and engines write them are read here, since h11 costs ten times as much and
every request has two of them. What has anything unusual about it goes to h11: what is taken here h11 takes as
well, and reads alike, which a test holds with generated heads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import h11

# Bytes; as many as the engine takes (Go's DefaultMaxHeaderBytes and its reader's own buffer):
# X-Registry-Config carries every login of the user.
MAX_HEAD = (1 << 20) + 4096
_MAX_CHUNK_LINE = 4096
_HEAD_END = re.compile(rb"\n\r?\n")  # a bare line feed ends a line as well, for the engine and so for us
_HOST = re.compile(rb"(?im)^host:")
_SPACED_NAME = re.compile(rb"(?m)^[!#-'*+.^-z|~0-9A-Z-]+[ \t]+:")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_FIELDS = rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t -~]*+\r\n)++)\r\n"
_PLAIN_REQUEST = re.compile(rb"([A-Z]++) ([!-~]++) HTTP/1\.1\r\n" + _FIELDS)
_PLAIN_RESPONSE = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) [\t -~]*+\r\n" + _FIELDS)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(;[^\r\n]*)?")


class HttpError(Exception):
    """What came is not HTTP as we can pass it on safely; `status` is what the engine would answer."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Head:
    """A request's or a response's head, and its bytes as they came."""

    raw: bytes
    headers: tuple[tuple[bytes, bytes], ...]  # names in lower case
    version: bytes
    method: bytes = b""
    target: bytes = b""
    status: int = 0

    def all(self, name: bytes) -> list[bytes]:
        # There are ten or twenty: to look through them takes less than to sort them first.
        return [value for known, value in self.headers if known == name]

    def has_token(self, name: bytes, token: bytes) -> bool:
        return any(token in [word.strip().lower() for word in value.split(b",")] for value in self.all(name))

    @property
    def keeps_alive(self) -> bool:
        if self.has_token(b"connection", b"close"):
            return False
        return self.version != b"1.0" or self.has_token(b"connection", b"keep-alive")


class HeadBuffer:
    """Collects bytes until a head is whole."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._looked = 0

    def __len__(self) -> int:
        return len(self._held)

    def feed(self, data: bytes) -> None:
        self._held += data

    def take_head(self) -> bytes | None:
        """The head with its empty line, or None. Raises HttpError when it is too long."""
        while self._held[:2] == b"\r\n":
            del self._held[:2]  # RFC 9112 2.2: empty lines before a request are passed over
        found = _HEAD_END.search(self._held, max(0, self._looked - 2))
        if (len(self._held) if found is None else found.end()) > MAX_HEAD:
            raise HttpError("", 431)
        if found is None:
            self._looked = len(self._held)
            return None
        self._looked = 0
        end = found.end()
        del found  # it holds the buffer, which could not shrink
        head = bytes(self._held[:end])
        del self._held[:end]
        return head

    def take_all(self) -> bytes:
        rest = bytes(self._held)
        self._held.clear()
        self._looked = 0
        return rest


def _check_framing(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    """Refuse what two parsers could read in two ways: that is how requests are smuggled."""
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if len(lengths) > 1 or (lengths and codings) or len(codings) > 1:
        raise HttpError("the body's length is said twice")
    if codings and codings[0].strip().lower() != b"chunked":
        raise HttpError("", 501)


def _plain_fields(block: bytes) -> tuple[tuple[bytes, bytes], ...] | None:
    """Names in lower case and values of well-formed lines; None where the body's length is not plain."""
    lines = [line.partition(b":") for line in block.split(b"\r\n")[:-1]]
    headers = tuple((name.lower(), value.strip(b" \t")) for name, _, value in lines)
    framing = [field for field in headers if field[0] in (b"content-length", b"transfer-encoding")]
    if not framing:
        return headers
    (name, value), *more = framing
    plain = value == b"chunked" if name == b"transfer-encoding" else value.isdigit() and len(value) < 19
    return headers if plain and not more else None


def plain_request(raw: bytes) -> Head | None:
    """The head, if it is one that needs no second thought."""
    match = _PLAIN_REQUEST.fullmatch(raw)
    headers = _plain_fields(match[3]) if match is not None else None
    if match is None or headers is None or sum(name == b"host" for name, _ in headers) != 1:
        return None
    return Head(raw, headers, b"1.1", method=match[1], target=match[2])


def plain_response(raw: bytes) -> Head | None:
    """The head, if it is one that needs no second thought."""
    match = _PLAIN_RESPONSE.fullmatch(raw)
    headers = _plain_fields(match[2]) if match is not None else None
    if match is None or headers is None:
        return None
    return Head(raw, headers, b"1.1", status=int(match[1]))


def parse_request(raw: bytes) -> Head:
    """Raises HttpError."""
    return plain_request(raw) or careful_request(raw)


def careful_request(raw: bytes) -> Head:
    """Read by h11. Raises HttpError."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD + 4)
    # Clients send filters and paths in plain UTF-8, which the engine takes and h11 does not.
    line, feed, rest = raw.partition(b"\n")
    line = _NOT_ASCII.sub(lambda byte: b"%%%02X" % byte[0][0], line)
    try:
        parser.receive_data(line + feed + rest)
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise _refused(raw, error) from error
    if not isinstance(event, h11.Request):
        raise HttpError("")
    headers = tuple((bytes(name), bytes(value)) for name, value in event.headers)
    _check_framing(headers)
    return Head(raw, headers, bytes(event.http_version), bytes(event.method), bytes(event.target))


def _refused(raw: bytes, error: h11.RemoteProtocolError) -> HttpError:
    """In the words of the engine's server (Go's net/http), which has few."""
    if error.error_status_hint == 501:
        return HttpError("", 501)
    if _HOST.search(raw) is None and raw.partition(b"\n")[0].rstrip().endswith(b" HTTP/1.1"):
        return HttpError("missing required Host header")
    if _SPACED_NAME.search(raw.partition(b"\n")[2]):
        return HttpError("invalid header name")
    return HttpError("")


def parse_response(raw: bytes, method: bytes) -> Head:
    """Raises HttpError."""
    return plain_response(raw) or careful_response(raw, method)


def careful_response(raw: bytes, method: bytes) -> Head:
    """Read by h11. Raises HttpError."""
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD + 4)
    # h11 reads a response only after a request of ours; which one matters for CONNECT and HEAD alone.
    upgrade = [("Host", "x"), ("Connection", "upgrade"), ("Upgrade", "x")]
    parser.send(h11.Request(method="GET" if method == b"CONNECT" else method, target="/", headers=upgrade))
    try:
        parser.receive_data(raw)
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise HttpError(str(error)) from error
    if not isinstance(event, (h11.Response, h11.InformationalResponse)):
        raise HttpError("this is not a response")
    headers = tuple((bytes(name), bytes(value)) for name, value in event.headers)
    _check_framing(headers)
    return Head(raw, headers, bytes(event.http_version), status=event.status_code)


class Body(Protocol):
    """Follows a body: how many of the bytes at hand belong to it."""

    done: bool

    def feed(self, data: bytes) -> int:
        """Bytes of `data` that belong to the body. Raises HttpError."""


class NoBody:
    done = True

    def feed(self, data: bytes) -> int:
        return 0


class LengthBody:
    """`content` gets the body as well, where somebody wants to read it."""

    def __init__(self, length: int, content: bytearray | None = None) -> None:
        self._left = length
        self._content = content
        self.done = length == 0

    def feed(self, data: bytes) -> int:
        taken = min(self._left, len(data))
        self._left -= taken
        if self._content is not None:
            self._content += data[:taken]
        self.done = self._left == 0
        return taken


class UntilCloseBody:
    """A response whose end is the connection's."""

    done = False

    def feed(self, data: bytes) -> int:
        return len(data)


class ChunkedBody:
    """Follows chunks by arithmetic; `content` gets what they carry, where somebody wants to read it."""

    def __init__(self, content: bytearray | None = None) -> None:
        self.done = False
        self._content = content
        self._left = 0  # bytes of the chunk (with its line end) that are still to come
        self._line = bytearray()
        self._trailer = False

    def feed(self, data: bytes) -> int:
        at = 0
        while at < len(data) and not self.done:
            if self._left:
                taken = min(self._left, len(data) - at)
                if self._content is not None and self._left > 2:
                    self._content += data[at : at + min(taken, self._left - 2)]
                self._left -= taken
                at += taken
                continue
            end = data.find(b"\n", at)
            stop = len(data) if end < 0 else end + 1
            self._line += data[at:stop]
            at = stop
            if len(self._line) > _MAX_CHUNK_LINE:
                raise HttpError("a chunk's line is too long")
            if end >= 0:
                line = bytes(self._line)
                self._line.clear()
                self._take_line(line)
        return at

    def _take_line(self, line: bytes) -> None:
        if not line.endswith(b"\r\n"):
            raise HttpError("a chunk's line has no proper end")
        if self._trailer:
            self.done = line == b"\r\n"
            return
        match = _CHUNK_SIZE.fullmatch(line[:-2])
        if match is None:
            raise HttpError("a chunk has no size")
        size = int(match[1], 16)
        self._trailer = size == 0
        self._left = size + 2 if size else 0


def request_body(head: Head, content: bytearray | None = None) -> Body:
    if head.all(b"transfer-encoding"):
        return ChunkedBody(content)
    lengths = head.all(b"content-length")
    return LengthBody(int(lengths[0])) if lengths else NoBody()


def response_body(head: Head, method: bytes, content: bytearray | None = None) -> Body:
    """RFC 9112 6.3. `content` gets what the body carries, where somebody wants to read it."""
    if method == b"HEAD" or head.status in (204, 304) or head.status < 200:
        return NoBody()
    if head.all(b"transfer-encoding"):
        return ChunkedBody(content)
    lengths = head.all(b"content-length")
    return LengthBody(int(lengths[0]), content) if lengths else UntilCloseBody()
