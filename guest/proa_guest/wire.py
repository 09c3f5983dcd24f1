"""The link's protocol, sans-IO: both hosts and guests import it, and nothing here does I/O.

On connect the guest speaks first, each side one line:

    guest   PROA <lowest>-<highest> <nonce of the guest, 32 hex digits>
    host    PROA <version> <nonce of the host> <proof of the host, 64 hex digits>
    guest   <proof of the guest>

A proof is HMAC-SHA256(secret, label | version | both nonces), so the secret never crosses the wire,
and the labels keep one side's proof from serving as the other's. The stream is then parked. To use it
the host writes one line of JSON with a `target` and may send data at once; the guest answers one line,
`ok` or `error {problem}`; then both speak raw bytes with half-close, `control` and `exec` in frames.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterator

LOWEST, HIGHEST = 1, 1  # protocol versions spoken here; N and N-1 work together
NONCE_BYTES = 16
MAX_LINE = 512  # bytes of a line before the proof: what a stranger can make us hold
MAX_REQUEST = 4 << 20  # bytes of a request's line: a call's words and environment (Linux takes 2 MiB)
MAX_ANSWER = 16 << 10
MAX_MESSAGE = 1 << 20  # bytes of a control message
MAX_FRAME = 1 << 20  # bytes of an exec frame's payload
MOST_INPUT = 256 << 10  # bytes of input under way to a command that has not read them

TARGETS = ("engine", "exec", "call", "reverse", "control")  # and tcp:ADDRESS:PORT, unix:PATH


class WireError(Exception):
    """The other side broke the protocol: its connection is to be dropped."""


# -- lines -------------------------------------------------------------------------------------


class Lines:
    """Collects bytes until a line is whole; what follows the line stays in `rest`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = bytearray()

    def feed(self, data: bytes) -> bytes | None:
        """The line without its end, or None. Raises WireError once it is longer than the limit."""
        self._held += data
        end = self._held.find(b"\n", 0, self._limit + 1)
        if end < 0:
            if len(self._held) > self._limit:
                raise WireError("a line is too long")
            return None
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        return line

    @property
    def rest(self) -> bytes:
        """What came behind the last line; taken out."""
        rest = bytes(self._held)
        self._held.clear()
        return rest


# -- the proof ---------------------------------------------------------------------------------


def _proof(secret: bytes, label: bytes, version: int, guest_nonce: bytes, host_nonce: bytes) -> bytes:
    message = b"proa-link " + label + b" %d " % version + guest_nonce + b" " + host_nonce
    return hmac.new(secret, message, hashlib.sha256).hexdigest().encode()


def _nonce() -> bytes:
    return os.urandom(NONCE_BYTES).hex().encode()


def _is_nonce(text: bytes) -> bool:
    return len(text) == 2 * NONCE_BYTES and all(char in b"0123456789abcdef" for char in text)


def renewed(secret: bytes, nonce: str) -> bytes:
    """The secret that follows `secret` after a restore: of the two only the nonce crosses the wire."""
    return hmac.new(secret, b"proa-link renewed " + nonce.encode(), hashlib.sha256).digest()


def new_nonce() -> str:
    """What the host adds to a renewed secret."""
    return _nonce().decode()


class GuestHandshake:
    """The guest's side: `hello` first, then feed it the host's bytes until `done`."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._own = _nonce()
        self._lines = Lines(MAX_LINE)
        self.done = False
        self.version = 0

    def hello(self) -> bytes:
        return b"PROA %d-%d %s\n" % (LOWEST, HIGHEST, self._own)

    def feed(self, data: bytes) -> bytes:
        """Bytes to send. Raises WireError where the host does not prove that it holds the secret."""
        line = self._lines.feed(data)
        if line is None:
            return b""
        words = line.split(b" ")
        if len(words) != 4 or words[0] != b"PROA" or not _is_nonce(words[2]) or words[2] == self._own:
            raise WireError("this is not a host's hello")
        if not words[1].isdigit() or len(words[1]) > 4 or not LOWEST <= int(words[1]) <= HIGHEST:
            raise WireError("the host speaks another version")
        self.version = int(words[1])
        expected = _proof(self._secret, b"host", self.version, self._own, words[2])
        if not hmac.compare_digest(expected, words[3]):
            raise WireError("the host does not hold the secret")
        self.done = True
        return _proof(self._secret, b"guest", self.version, self._own, words[2]) + b"\n"

    @property
    def rest(self) -> bytes:
        return self._lines.rest


class HostHandshake:
    """The host's side: feed it the guest's bytes until `done`."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._own = _nonce()
        self._lines = Lines(MAX_LINE)
        self._expected = b""
        self.done = False
        self.version = 0

    def feed(self, data: bytes) -> bytes:
        """Bytes to send. Raises WireError where the guest does not prove that it holds the secret."""
        line = self._lines.feed(data)
        out = b""
        if line is not None and not self._expected:
            out = self._answer(line)
            line = self._lines.feed(b"")
        if line is not None:
            if not hmac.compare_digest(self._expected, line):
                raise WireError("the guest does not hold the secret")
            self.done = True
        return out

    def _answer(self, line: bytes) -> bytes:
        words = line.split(b" ")
        if len(words) != 3 or words[0] != b"PROA" or not _is_nonce(words[2]) or words[2] == self._own:
            raise WireError("this is not a guest's hello")
        lowest, _, highest = words[1].partition(b"-")
        if not (lowest.isdigit() and highest.isdigit() and len(words[1]) <= 9):
            raise WireError("the guest names no versions")
        self.version = min(HIGHEST, int(highest))
        if self.version < max(LOWEST, int(lowest)):
            raise WireError(f"the guest speaks versions {words[1].decode()}, this is {LOWEST}-{HIGHEST}")
        self._expected = _proof(self._secret, b"guest", self.version, words[2], self._own)
        proof = _proof(self._secret, b"host", self.version, words[2], self._own)
        return b"PROA %d %s %s\n" % (self.version, self._own, proof)

    @property
    def rest(self) -> bytes:
        return self._lines.rest


# -- requests and answers ----------------------------------------------------------------------


def request(target: str, extra: dict[str, object] | None = None) -> bytes:
    """The line that takes a parked stream into use."""
    return json.dumps({**(extra or {}), "target": target}).encode() + b"\n"


def read_request(line: bytes) -> tuple[str, dict[str, object]]:
    """The target and the whole request. Raises WireError."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WireError("the request is not JSON") from error
    target = content.get("target") if isinstance(content, dict) else None
    if not isinstance(target, str):
        raise WireError("the request names no target")
    return target, content


def tcp_target(target: str) -> tuple[str, int]:
    """Address and port of `tcp:ADDRESS:PORT`; IPv6 in brackets. Raises WireError."""
    kind, _, rest = target.partition(":")
    address, _, port = rest.rpartition(":")
    address = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    if (
        kind != "tcp"
        or not address
        or not (port.isascii() and port.isdigit())
        or not 0 < int(port[:6]) < 65536
    ):
        raise WireError("a TCP target is tcp:ADDRESS:PORT")
    return address, int(port)


OK = b"ok\n"
# What the guest writes on a stream that the host parked as `reverse` when it takes it into use; what
# follows is the bytes of whoever in the guest speaks to the host.
CLAIM = b"claim\n"


def refusal(code: str, message: str, hint: str = "") -> bytes:
    """The guest's answer to a request that it cannot serve."""
    problem = json.dumps({"code": code, "message": message[:2000], "hint": hint[:2000]})
    return b"error " + problem.encode() + b"\n"


def read_answer(line: bytes) -> dict[str, str] | None:
    """None for `ok`, else the problem: `code`, `message`, `hint`. Raises WireError."""
    if line == b"ok":
        return None
    word, _, text = line.partition(b" ")
    try:
        problem = json.loads(text) if word == b"error" else None
    except (ValueError, RecursionError) as error:
        raise WireError("the guest's answer cannot be read") from error
    if not isinstance(problem, dict):
        raise WireError("the guest's answer is neither ok nor error")
    return {key: str(problem.get(key, "")) for key in ("code", "message", "hint")}


# -- frames ------------------------------------------------------------------------------------


def message(content: object) -> bytes:
    """A control message: u32 length (big-endian), JSON."""
    data = json.dumps(content).encode()
    return len(data).to_bytes(4, "big") + data


class Messages:
    """Takes control messages out of bytes."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, object]]:
        """Raises WireError on a message that is too long, or not a JSON object."""
        self._held += data
        while len(self._held) >= 4:
            size = int.from_bytes(self._held[:4], "big")
            if size > MAX_MESSAGE:
                raise WireError("a message is too long")
            if len(self._held) < 4 + size:
                return
            text = bytes(self._held[4 : 4 + size])
            del self._held[: 4 + size]
            try:
                content = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise WireError("a message is not JSON") from error
            if not isinstance(content, dict):
                raise WireError("a message is not an object")
            yield content


# Kinds of an exec stream's frames: u32 length of the payload (big-endian), u8 kind, payload.
STDIN, STDIN_EOF, STDOUT, STDERR, RESIZE, SIGNAL, EXIT, ASK, ANSWER, TAKEN = range(1, 11)


def frame(kind: int, payload: bytes = b"") -> bytes:
    """RESIZE carries rows and columns (u16 each), SIGNAL a number (u8), EXIT the JSON {"status": n}.

    TAKEN says how many bytes more of its input the command has taken (u32). A host has at most MOST_INPUT
    under way, so that what else it says is not held up by a command that does not read.

    Of calls only: ASK is a question of Docker's credential helper to the host, the JSON
    {"id": n, "action": …, "input": …}, and ANSWER what the host's said, {"id": n, "status": n, "output": …}.
    """
    return len(payload).to_bytes(4, "big") + bytes((kind,)) + payload


def resize(rows: int, columns: int) -> bytes:
    return frame(RESIZE, (rows & 0xFFFF).to_bytes(2, "big") + (columns & 0xFFFF).to_bytes(2, "big"))


def taken(count: int) -> bytes:
    return frame(TAKEN, count.to_bytes(4, "big"))


def exit_frame(status: int) -> bytes:
    """`status` is 0-255, 128 + n for a signal."""
    return frame(EXIT, json.dumps({"status": status}).encode())


def exit_status(payload: bytes) -> int:
    """The status in an EXIT frame. Raises WireError."""
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise WireError("an exit frame is not JSON") from error
    status = content.get("status") if isinstance(content, dict) else None
    if not isinstance(status, int) or not 0 <= status <= 255:
        raise WireError("an exit frame has no status")
    return status


class Frames:
    """Takes exec frames out of bytes."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(kind, payload) of every frame that is whole. Raises WireError."""
        self._held += data
        while len(self._held) >= 5:
            size, kind = int.from_bytes(self._held[:4], "big"), self._held[4]
            if size > MAX_FRAME or not STDIN <= kind <= TAKEN:
                raise WireError("this is not a frame")
            if len(self._held) < 5 + size:
                return
            payload = bytes(self._held[5 : 5 + size])
            del self._held[: 5 + size]
            yield kind, payload
