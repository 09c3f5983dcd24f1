"""One client's connection as a state machine, sans-IO: what happened goes in, what to do comes out.

One request is under way at a time; what a client sends ahead waits in the shell, which stops reading.
A connection ends up in one of two ways: request after request, or hijacked, when both sides speak raw.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus

from proa.engine import mounts
from proa.engine.commands import (
    CloseClient,
    CloseEngine,
    Command,
    EngineEof,
    OpenEngine,
    Settle,
    Share,
    Splice,
    ToClient,
    ToEngine,
)
from proa.engine.http import (
    Body,
    Head,
    HeadBuffer,
    HttpError,
    LengthBody,
    NoBody,
    UntilCloseBody,
    parse_request,
    parse_response,
    request_body,
    response_body,
)

MAX_INSPECTED = 32 << 20  # bytes of a body that is read before it is passed on
_HIJACKS = re.compile(r"/(containers/[^/]+/attach|exec/[^/]+/start)")
_SETTLES = re.compile(r"/containers/[^/]+/(start|restart|unpause)")


class _Phase(enum.Enum):
    IDLE = enum.auto()  # between requests
    INSPECT = enum.auto()  # the body is being read before it may pass
    SHARING = enum.auto()  # host folders are made ready for it
    OPENING = enum.auto()  # the engine's stream is on its way
    EXCHANGE = enum.auto()  # a request is under way
    SETTLING = enum.auto()  # the answer waits for ports
    HELD = enum.auto()  # the engine sleeps, and the client goes on listening for events
    RAW = enum.auto()
    OVER = enum.auto()


class Conversation:
    """Feed it events; each returns the commands to carry out, in order."""

    def __init__(self, *, shares: bool = False) -> None:
        """`shares`: host folders may be mounted, by the guest's names of them; else all are refused."""
        self._shares = shares
        self._phase = _Phase.IDLE
        self._client = HeadBuffer()
        self._engine = HeadBuffer()
        self._engine_open = False
        self._client_eof = False
        self._request: Head | None = None
        self._path = ""  # its path, as the engine's router sees it
        self._request_body: Body = NoBody()
        self._response: Head | None = None
        self._last_answer: tuple[bytes, bytes, Head] | None = None  # as it came, to what method, and read
        self._response_body: Body = NoBody()
        self._inspected = bytearray()  # content of a body that is inspected
        self._held = bytearray()  # its original bytes
        self._pending = b""  # what goes to the engine first, once it is open
        self._waiting = bytearray()  # what the engine said while ports settle
        self._content = b""  # a body that waits for host folders
        self._shown: bytearray | None = None  # an answer that is read to the end before it is passed on
        self._shown_content = bytearray()
        self._told = b""  # the last bytes of the answer that were passed on
        self._goes_on = False  # the next answer of the engine goes on with one that the client has begun

    # -- what the shell asks ------------------------------------------------------------------

    @property
    def wants_client(self) -> bool:
        """False while what the client sends could only pile up here."""
        return self._phase in (_Phase.IDLE, _Phase.INSPECT) or (
            self._phase in (_Phase.EXCHANGE, _Phase.HELD)
            and not (self._request_body.done and len(self._client))
        )

    @property
    def wants_engine(self) -> bool:
        return self._phase is not _Phase.SETTLING

    @property
    def idle(self) -> bool:
        return self._phase is _Phase.IDLE and not len(self._client)

    @property
    def watching(self) -> bool:
        """Whether it only listens to the engine's events, as an IDE does all day."""
        request = self._request
        return (
            self._phase in (_Phase.EXCHANGE, _Phase.HELD)
            and request is not None
            and request.method == b"GET"
            and self._path == "/events"
        )

    # -- events -------------------------------------------------------------------------------

    def client_data(self, data: bytes) -> list[Command]:
        if self._phase is _Phase.OVER:
            return []
        if self._phase is _Phase.EXCHANGE and not self._request_body.done:
            return self._guard(lambda: self._more_body(data))
        self._client.feed(data)
        return self._guard(self._advance)

    def client_eof(self) -> list[Command]:
        """The client half-closed. The engine is told, as it would be without us, and decides."""
        self._client_eof = True
        if self._phase in (_Phase.IDLE, _Phase.INSPECT, _Phase.HELD):
            return self._over()
        return [EngineEof()] if self._phase is _Phase.EXCHANGE else []

    def client_lost(self) -> list[Command]:
        return self._over()

    def hold(self) -> bool:
        """The engine fell asleep: keep a client that listens to events; False where this is no such one."""
        whole = self._told.endswith(b"\r\n") or not self._told
        listens = self.watching and self._response is not None and self._response.status == 200
        if not (listens and whole and self._request_body.done):
            return False
        self._phase, self._engine_open, self._engine = _Phase.HELD, False, HeadBuffer()
        return True

    def go_on(self, since: str) -> list[Command]:
        """The engine is awake again: ask it for the events `since` then (Unix time), for a client held."""
        if self._phase is not _Phase.HELD:
            return []
        assert self._request is not None
        self._goes_on, self._response = True, None
        return self._send(_with_query(self._request, b"since=" + since.encode()))

    def forget(self) -> list[Command]:
        """The machine was ended in its sleep: whoever was held is let go."""
        return self._over() if self._phase is _Phase.HELD else []

    def engine_opened(self) -> list[Command]:
        self._engine_open = True
        if self._phase is not _Phase.OPENING:
            return [CloseEngine()]
        self._phase = _Phase.EXCHANGE
        pending, self._pending = self._pending, b""
        commands: list[Command] = [ToEngine(pending)]
        rest = self._client.take_all()
        if rest:
            commands += self._guard(lambda: self._more_body(rest))
        if self._client_eof:
            commands += self.client_eof()
        return commands

    def engine_failed(self, message: str) -> list[Command]:
        """No stream to the engine: the client is told why, as the engine would tell it."""
        self._engine_open = False
        return self._over() if self._goes_on else self._refuse(503, message)

    def engine_data(self, data: bytes) -> list[Command]:
        if not data:
            return []
        if self._phase is _Phase.SETTLING:
            self._waiting += data
            return []
        if self._phase is not _Phase.EXCHANGE:
            return self._over()  # it speaks without having been asked
        if self._response is not None:
            return self._guard(lambda: (self._pass_answer if self._shown is None else self._gather)(data))
        self._engine.feed(data)
        return self._guard(self._take_answer)

    def engine_eof(self) -> list[Command]:
        """The engine's stream ended."""
        self._engine_open = False
        if self._phase in (_Phase.IDLE, _Phase.INSPECT):
            return [CloseEngine()]  # a kept stream that the engine gave up; the next request opens another
        if self._phase is _Phase.SETTLING:
            return []
        if self._phase is not _Phase.EXCHANGE:
            return []
        if self._goes_on:
            return self._over()
        if self._response is None and not len(self._engine):
            return self._refuse(502, "the engine ended the connection without an answer [engine-silent]")
        # A body that is not whole is seen as such by the client, as it would be without us.
        return self._over()

    def settled(self) -> list[Command]:
        """Ports are bound: the answer may go."""
        if self._phase is not _Phase.SETTLING:
            return []
        self._phase = _Phase.EXCHANGE
        assert self._response is not None
        head = self._response.raw
        waiting, self._waiting = bytes(self._waiting), bytearray()
        return self._guard(lambda: self._pass_answer(waiting, head))

    # -- requests -----------------------------------------------------------------------------

    def _guard(self, step: Callable[[], list[Command]]) -> list[Command]:
        try:
            return step()
        except HttpError as error:
            return self._malformed(error)

    def _advance(self) -> list[Command]:
        """Take the next request if the last one is over."""
        if self._phase is _Phase.INSPECT:
            return self._inspect(self._client.take_all())
        if self._phase is not _Phase.IDLE:
            return []
        raw = self._client.take_head()
        if raw is None:
            return []
        head = self._request
        if head is None or head.raw != raw:  # many clients say the same again, word for word
            self._request = head = parse_request(raw)
            self._path = mounts.path_of(head.target)
        self._response = None
        if mounts.carries_mounts(head.method, self._path):
            return self._begin_inspection(head)
        self._request_body = request_body(head)
        return self._send(head.raw)

    def _begin_inspection(self, head: Head) -> list[Command]:
        self._phase = _Phase.INSPECT
        self._inspected, self._held = bytearray(), bytearray()
        self._request_body = request_body(head, self._inspected)
        commands: list[Command] = []
        if head.has_token(b"expect", b"100-continue"):
            commands.append(ToClient(b"HTTP/1.1 100 Continue\r\n\r\n"))
        return commands + self._inspect(self._client.take_all())

    def _inspect(self, data: bytes) -> list[Command]:
        """Hold the body until it is whole, then pass the request on or refuse it."""
        assert self._request is not None
        taken = self._request_body.feed(data)
        self._held += data[:taken]
        self._client.feed(data[taken:])
        if len(self._held) > MAX_INSPECTED:
            return self._refuse(
                413, f"the request is larger than {MAX_INSPECTED >> 20} MiB [request-too-large]"
            )
        if not self._request_body.done:
            return []
        content = bytes(self._held if isinstance(self._request_body, LengthBody) else self._inspected)
        wanted: list[mounts.HostMount] = []
        if content:
            try:
                wanted = mounts.host_mounts(content)
            except mounts.NotJson:
                wanted = []  # the engine says so, in its own words
            except mounts.Unreadable as error:
                return self._refuse(
                    400, f"the request's body cannot be looked through: {error} [bad-request]", keep=True
                )
        if wanted and self._shares:
            self._phase, self._content = _Phase.SHARING, content
            return [Share(tuple(wanted))]
        if wanted:
            told = f"{mounts.refusal(wanted[0].path)} [host-folder-not-shared]"
            return self._refuse(400, told, keep=True)
        return self._send(_without_expect(self._request) + bytes(self._held))

    def shared(self, targets: Mapping[str, mounts.Target]) -> list[Command]:
        """The host paths are there for the guest: the request goes on with its names of them."""
        if self._phase is not _Phase.SHARING:
            return []
        assert self._request is not None
        content, self._content = mounts.rewrite(self._content, targets), b""
        return self._send(_with_length(self._request.raw, len(content)) + content)

    def not_shared(self, status: int, message: str) -> list[Command]:
        """One of the host paths is not for containers."""
        self._content = b""
        return self._refuse(status, message, keep=True) if self._phase is _Phase.SHARING else []

    def _send(self, data: bytes) -> list[Command]:
        if self._engine_open:
            self._phase = _Phase.EXCHANGE
            commands: list[Command] = [ToEngine(data)]
            rest = b"" if self._request_body.done else self._client.take_all()
            return commands + (self._more_body(rest) if rest else [])
        self._phase = _Phase.OPENING
        self._pending = data
        return [OpenEngine()]

    def _more_body(self, data: bytes) -> list[Command]:
        taken = self._request_body.feed(data)
        if taken < len(data):
            self._client.feed(data[taken:])
        return [ToEngine(data[:taken])] if taken else []

    # -- answers ------------------------------------------------------------------------------

    def _take_answer(self) -> list[Command]:
        assert self._request is not None
        commands: list[Command] = []
        while (raw := self._engine.take_head()) is not None:
            head = self._read_answer(raw, self._request.method)
            if head.status == 101:
                self._phase = _Phase.RAW
                return [*commands, Splice(self._client.take_all(), raw + self._engine.take_all())]
            if head.status < 200:
                commands.append(ToClient(raw))
                continue
            self._response = head
            if self._goes_on:
                self._goes_on = False
                # The client has had this head, and is in the middle of the body.
                return self._pass_answer(self._engine.take_all()) if head.status == 200 else self._over()
            return commands + self._begin_answer(head, raw, self._engine.take_all())
        return commands

    def _read_answer(self, raw: bytes, method: bytes) -> Head:
        """Raises HttpError."""
        if self._last_answer is None or self._last_answer[:2] != (raw, method):
            self._last_answer = (raw, method, parse_response(raw, method))
        return self._last_answer[2]

    def _begin_answer(self, head: Head, raw: bytes, rest: bytes) -> list[Command]:
        """Of an answer the head is there, and `rest` of its body."""
        assert self._request is not None
        self._told = b""
        self._response_body = response_body(head, self._request.method)
        if self._is_hijacked(head):
            self._phase = _Phase.RAW
            return [Splice(self._client.take_all(), raw + rest)]
        if self._settles(head):
            self._phase = _Phase.SETTLING
            self._waiting += rest
            return [Settle()]
        if self._is_shown():
            self._shown, self._shown_content = bytearray(raw), bytearray()
            self._response_body = response_body(head, self._request.method, self._shown_content)
            return self._gather(rest)
        return self._pass_answer(rest, raw)

    def _is_shown(self) -> bool:
        """Whether its body may name host paths as the guest has them."""
        assert self._request is not None
        return (
            self._shares
            and not isinstance(self._response_body, (NoBody, UntilCloseBody))
            and mounts.shows_mounts(self._path)
        )

    def _gather(self, data: bytes) -> list[Command]:
        """Read such an answer to its end; one without a host path goes on as it came."""
        assert self._shown is not None
        taken = self._response_body.feed(data)
        self._shown += data[:taken]
        if not self._response_body.done and len(self._shown) <= MAX_INSPECTED:
            return []
        whole, self._shown = bytes(self._shown), None
        content, self._shown_content = bytes(self._shown_content), bytearray()
        if self._response_body.done and (changed := mounts.shown(content)) != content:
            assert self._response is not None
            whole = _answer(self._response, changed)
        commands: list[Command] = [ToClient(whole)]
        if self._response_body.done:
            if taken < len(data):
                return [*commands, *self._over()]  # more than was asked for
            commands += self._answered()
        return commands

    def _is_hijacked(self, head: Head) -> bool:
        """Attach and exec without `Upgrade` answer 200, name no length, and then speak raw."""
        assert self._request is not None
        if head.status != 200 or head.all(b"content-length") or head.all(b"transfer-encoding"):
            return False
        return self._request.method == b"POST" and bool(_HIJACKS.fullmatch(self._path))

    def _settles(self, head: Head) -> bool:
        assert self._request is not None
        if self._request.method != b"POST" or head.status >= 300:
            return False
        return bool(_SETTLES.fullmatch(self._path))

    def _pass_answer(self, data: bytes, before: bytes = b"") -> list[Command]:
        taken = self._response_body.feed(data)
        out = before + (data if taken == len(data) else data[:taken])
        self._told = data[max(0, taken - 2) : taken] or self._told
        commands: list[Command] = [ToClient(out)] if out else []
        if self._response_body.done:
            if taken < len(data):
                return [*commands, *self._over()]  # more than was asked for
            commands += self._answered()
        return commands

    def _answered(self) -> list[Command]:
        """The exchange is over: the next one, or the end."""
        assert self._request is not None and self._response is not None
        # An answer before the whole request was sent leaves the rest of its body in the way.
        keep = self._request.keeps_alive and self._response.keeps_alive and self._request_body.done
        if not keep or self._client_eof:
            return self._over()
        self._phase = _Phase.IDLE
        commands: list[Command] = []
        if not self._engine_open:
            commands.append(CloseEngine())
        return commands + self._guard(self._advance)

    def _refuse(self, status: int, message: str, *, keep: bool = False) -> list[Command]:
        """Answer in the engine's own form, so that clients show the message."""
        if self._phase is _Phase.OVER:
            return []
        if self._response is not None:
            return self._over()  # an answer is under way: nothing can be said any more
        body = json.dumps({"message": message}).encode() + b"\n"
        request = self._request
        keep = keep and request is not None and request.keeps_alive and self._request_body.done
        head = b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n" % (
            status,
            HTTPStatus(status).phrase.encode(),
            len(body),
            b"" if keep else b"Connection: close\r\n",
        )
        answer = ToClient(head + (b"" if request is not None and request.method == b"HEAD" else body))
        if not keep:
            return [answer, *self._over()]
        self._phase = _Phase.IDLE
        return [answer, *self._guard(self._advance)]

    def _malformed(self, error: HttpError) -> list[Command]:
        """Answer as the engine's server does, and end the connection: where it would go on is unknown."""
        if self._phase is _Phase.OVER:
            return []
        if self._response is not None:
            return self._over()
        line = f"{error.status} {HTTPStatus(error.status).phrase}" + (f": {error}" if str(error) else "")
        body = "Unsupported transfer encoding" if error.status == 501 else line
        head = f"HTTP/1.1 {line}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
        return [ToClient((head + body).encode()), *self._over()]

    def _over(self) -> list[Command]:
        if self._phase is _Phase.OVER:
            return []
        self._phase = _Phase.OVER
        return [CloseEngine(), CloseClient()]


def _without_expect(head: Head) -> bytes:
    """The head as it came, without an Expect that has been answered here."""
    if not head.all(b"expect"):
        return head.raw
    lines = [line for line in head.raw.split(b"\n") if not line.lower().startswith(b"expect:")]
    return b"\n".join(lines)


def _with_length(head: bytes, length: int) -> bytes:
    """The head for a body of that many bytes, whatever it said of its body before."""
    ours = (b"content-length:", b"transfer-encoding:", b"trailer:", b"expect:")
    lines = [line.rstrip(b"\r") for line in head.split(b"\n")]
    kept = [line for line in lines if line and not line.lower().startswith(ours)]
    return b"\r\n".join([*kept, b"Content-Length: %d" % length, b"", b""])


def _answer(head: Head, content: bytes) -> bytes:
    """An answer with another body, framed in the way that the engine has chosen."""
    if head.all(b"transfer-encoding"):
        return b"%b%x\r\n%b\r\n0\r\n\r\n" % (head.raw, len(content), content)
    return _with_length(head.raw, len(content)) + content


def _with_query(head: Head, more: bytes) -> bytes:
    """The head asking for more; what it asked for before of the same name does not count any more."""
    path, _, query = head.target.partition(b"?")
    name = more.partition(b"=")[0] + b"="
    kept = [part for part in query.split(b"&") if part and not part.startswith(name)]
    return head.raw.replace(head.target, path + b"?" + b"&".join([*kept, more]), 1)
