"""One client's connection as scripts of events: what happened, and what is to be done."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proa.engine.commands import (
    CloseClient,
    CloseEngine,
    Command,
    EngineEof,
    OpenEngine,
    Settle,
    Splice,
    ToClient,
    ToEngine,
)
from proa.engine.conversation import Conversation

GET = b"GET /v1.45/_ping HTTP/1.1\r\nHost: d\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"


def to_engine(commands: list[Command]) -> bytes:
    return b"".join(command.data for command in commands if isinstance(command, ToEngine))


def to_client(commands: list[Command]) -> bytes:
    return b"".join(command.data for command in commands if isinstance(command, ToClient))


def is_over(commands: list[Command]) -> bool:
    return CloseClient() in commands and CloseEngine() in commands


def asked(request: bytes) -> Conversation:
    """A conversation whose first request has reached the engine."""
    talk = Conversation()
    assert talk.client_data(request) == [OpenEngine()]
    talk.engine_opened()
    return talk


def test_a_request_and_its_answer_pass_as_their_own_bytes() -> None:
    talk = Conversation()
    assert talk.client_data(GET) == [OpenEngine()]
    assert talk.engine_opened() == [ToEngine(GET)]
    assert talk.engine_data(OK) == [ToClient(OK)]
    assert talk.idle
    assert talk.client_data(GET) == [ToEngine(GET)], "the stream is kept for the next request"


def test_requests_sent_ahead_are_answered_one_after_the_other() -> None:
    talk = Conversation()
    talk.client_data(GET + GET)
    assert to_engine(talk.engine_opened()) == GET
    assert not talk.wants_client
    commands = talk.engine_data(OK)
    assert (to_client(commands), to_engine(commands)) == (OK, GET)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /x HTTP/1.1\r\nHost: d\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /x HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
        b"PUT /x HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n",
        b"HEAD /x HTTP/1.1\r\nHost: d\r\n\r\n",
    ],
)
@given(data=st.data())
def test_any_split_of_the_bytes_gives_the_same(request_bytes: bytes, data: st.DataObject) -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"
    )
    if request_bytes.startswith(b"HEAD"):
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"

    def pieces(text: bytes) -> list[bytes]:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
        return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    talk, sent, got = Conversation(), b"", b""
    for piece in pieces(request_bytes):
        for command in talk.client_data(piece):
            sent += command.data if isinstance(command, ToEngine) else b""
            if isinstance(command, OpenEngine):
                sent += to_engine(talk.engine_opened())
    for piece in pieces(answer):
        got += to_client(talk.engine_data(piece))
    assert (sent, got, talk.idle) == (request_bytes, answer, True)


@pytest.mark.parametrize(
    "bad",
    [
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: d\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: d\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: d\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: d\r\nBad Header : x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /" + b"x" * (1 << 21) + b" HTTP/1.1\r\nHost: d\r\n\r\n",
    ],
)
def test_what_two_parsers_could_read_in_two_ways_is_refused(bad: bytes) -> None:
    commands = Conversation().client_data(bad)
    assert to_client(commands)[:13] in (b"HTTP/1.1 400 ", b"HTTP/1.1 431 ", b"HTTP/1.1 501 ")
    assert is_over(commands)
    assert to_engine(commands) == b""


def test_lines_may_end_bare_and_targets_hold_utf_8() -> None:
    """Both as the engine takes them; the bytes go on as they came."""
    for sent in (
        b"GET /_ping HTTP/1.1\nHost: d\n\n",
        'GET /containers/json?filters={"name":["ü"]} HTTP/1.1\r\nHost: d\r\n\r\n'.encode(),
    ):
        talk = Conversation()
        assert talk.client_data(sent) == [OpenEngine()]
        assert to_engine(talk.engine_opened()) == sent


def test_mounts_are_seen_behind_bare_line_ends() -> None:
    sent = create(b'{"HostConfig":{"Binds":["/x:/y"]}}').replace(b"\r\n", b"\n")
    assert b"host-folder-not-shared" in to_client(Conversation().client_data(sent))


def test_a_chunk_without_a_size_ends_the_connection() -> None:
    talk = asked(b"POST /x HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert is_over(talk.client_data(b"zz\r\nhello\r\n"))


@pytest.mark.parametrize("path", [b"/containers/abc/attach?stream=1", b"/exec/abc/start"])
def test_an_attach_without_upgrade_is_hijacked_by_its_answer(path: bytes) -> None:
    talk = asked(b"POST /v1.45" + path + b" HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n{}")
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"
    assert talk.engine_data(answer + b"raw") == [Splice(b"", answer + b"raw")]


def test_a_detached_exec_is_no_hijack() -> None:
    talk = asked(b"POST /exec/abc/start HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n{}")
    assert talk.engine_data(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") == [
        ToClient(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    ]


@pytest.mark.parametrize("path", [b"/containers/a/attach", b"/session", b"/grpc"])
def test_the_engines_101_is_passed_on_and_both_sides_are_raw(path: bytes) -> None:
    talk = asked(b"POST " + path + b" HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
    talk.client_data(b"early")
    answer = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    assert talk.engine_data(answer + b"x") == [Splice(b"early", answer + b"x")]


def test_a_101_is_never_invented() -> None:
    talk = asked(
        b"POST /containers/a/attach HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    )
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}"
    assert talk.engine_data(answer) == [ToClient(answer)]


def test_a_continue_is_the_engines() -> None:
    request = b"POST /build HTTP/1.1\r\nHost: d\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    talk = asked(request)
    assert to_client(talk.engine_data(b"HTTP/1.1 100 Continue\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert to_engine(talk.client_data(b"hello")) == b"hello"
    assert to_client(talk.engine_data(OK)) == OK


CREATE = b"POST /v1.45/containers/create HTTP/1.1\r\nHost: d\r\n"


def create(body: bytes, extra: bytes = b"") -> bytes:
    return CREATE + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body


def test_an_inspected_body_passes_as_its_own_bytes() -> None:
    request = create(b'{"Image":"nginx"}')
    talk = Conversation()
    for at in range(0, len(request) - 1, 7):
        talk.client_data(request[at : at + 7])
    assert to_engine(talk.engine_opened()) == request


@pytest.mark.parametrize("chunked", [False, True])
def test_a_host_bind_is_refused_in_the_engines_form_and_never_reaches_it(chunked: bool) -> None:
    body = json.dumps({"HostConfig": {"Binds": ["/home/me:/x"]}}).encode()
    request = create(body)
    if chunked:
        middle = len(body) // 2
        parts = [body[:middle], body[middle:], b""]
        request = (
            CREATE
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts)
        )
    talk = Conversation()
    commands = talk.client_data(request)
    assert to_engine(commands) == b"" and OpenEngine() not in commands
    head, _, answer = to_client(commands).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert "/home/me" in json.loads(answer)["message"]
    assert talk.client_data(GET) == [OpenEngine()], "the connection goes on"


def test_an_expectation_is_met_here_when_the_body_must_be_seen_first() -> None:
    body = b'{"Image":"nginx"}'
    talk = Conversation()
    head = create(body, b"Expect: 100-continue\r\n")[: -len(body)]
    assert talk.client_data(head) == [ToClient(b"HTTP/1.1 100 Continue\r\n\r\n")]
    assert talk.client_data(body) == [OpenEngine()]
    sent = to_engine(talk.engine_opened())
    assert b"Expect" not in sent and sent.endswith(body)


def test_a_body_that_is_no_json_is_refused_by_the_engine_itself() -> None:
    sent = create(b"{")
    talk = Conversation()
    assert talk.client_data(sent) == [OpenEngine()]
    assert to_engine(talk.engine_opened()) == sent


def test_a_body_without_an_end_is_not_held_for_ever() -> None:
    talk = Conversation()
    talk.client_data(CREATE + b"Content-Length: 99999999\r\n\r\n")
    over = False
    for _ in range(40):
        over = over or is_over(talk.client_data(bytes(1 << 20)))
    assert over


def test_no_engine_is_said_in_its_own_form() -> None:
    talk = Conversation()
    talk.client_data(GET)
    commands = talk.engine_failed("the machine is stopped. start it: proa start")
    assert to_client(commands).startswith(b"HTTP/1.1 503 ")
    assert b"proa start" in to_client(commands)
    assert is_over(commands)


@pytest.mark.parametrize("verb", [b"start", b"restart", b"unpause"])
def test_the_answer_to_a_start_waits_until_ports_are_bound(verb: bytes) -> None:
    talk = asked(b"POST /v1.45/containers/abc/" + verb + b" HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n")
    answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    assert talk.engine_data(answer) == [Settle()]
    assert talk.settled() == [ToClient(answer)]
    assert talk.idle


def test_a_start_that_failed_waits_for_nothing() -> None:
    talk = asked(b"POST /containers/abc/start HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n")
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}"
    assert talk.engine_data(answer) == [ToClient(answer)]


def test_a_client_that_leaves_ends_its_request_in_the_engine() -> None:
    talk = asked(b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n")
    assert talk.client_eof() == [EngineEof()], "the engine decides what a half-close means"
    assert is_over(talk.client_lost())
    assert talk.engine_data(b"late") == []


def test_an_answer_until_close_ends_with_the_engine() -> None:
    talk = asked(GET)
    head = b"HTTP/1.0 200 OK\r\n\r\n"
    assert to_client(talk.engine_data(head + b"abc")) == head + b"abc"
    assert is_over(talk.engine_eof())


def test_a_kept_stream_that_the_engine_gives_up_is_replaced() -> None:
    talk = asked(GET)
    talk.engine_data(OK)
    assert talk.engine_eof() == [CloseEngine()]
    assert talk.client_data(GET) == [OpenEngine()]


def test_an_engine_that_dies_without_a_word_is_said() -> None:
    commands = asked(GET).engine_eof()
    assert to_client(commands).startswith(b"HTTP/1.1 502 ")


def test_connection_close_is_respected() -> None:
    talk = asked(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
    assert is_over(talk.engine_data(OK))


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_garbage_from_either_side_raises_nothing(pieces: list[bytes]) -> None:
    talk = asked(GET)
    for piece in pieces:
        talk.engine_data(piece)
    other = Conversation()
    for piece in pieces:
        if OpenEngine() in other.client_data(piece):
            other.engine_opened()


EVENTS = b"GET /v1.45/events?filters=x&since=5 HTTP/1.1\r\nHost: d\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ONE, TWO = b"4\r\none\n\r\n", b"4\r\ntwo\n\r\n"


@pytest.mark.parametrize("before", [b"", ONE])
def test_who_listens_to_events_hears_on_after_a_sleep(before: bytes) -> None:
    talk = asked(EVENTS)
    assert not talk.idle
    assert to_client(talk.engine_data(CHUNKED + before)) == CHUNKED + before
    assert talk.watching
    assert talk.hold() and talk.watching
    assert talk.wants_client, "a client that leaves is seen"
    assert talk.go_on("7.5") == [OpenEngine()]
    (asks,) = talk.engine_opened()
    assert asks == ToEngine(EVENTS.replace(b"since=5", b"since=7.5"))
    assert to_client(talk.engine_data(CHUNKED + TWO)) == TWO, "the head is not told twice"
    assert to_client(talk.engine_data(ONE)) == ONE


def test_events_that_were_cut_in_the_middle_are_over() -> None:
    talk = asked(EVENTS)
    talk.engine_data(CHUNKED + ONE[:5])
    assert not talk.hold()
    assert is_over(talk.engine_eof())


@pytest.mark.parametrize("request_", [GET, EVENTS.replace(b"/events", b"/containers/x/logs")])
def test_nobody_else_is_held(request_: bytes) -> None:
    talk = asked(request_)
    talk.engine_data(CHUNKED + ONE)
    assert not talk.watching and not talk.hold()


def test_a_held_client_whose_engine_does_not_wake_is_let_go() -> None:
    for fail in (
        lambda talk: talk.engine_failed("no"),
        lambda talk: [*talk.engine_opened(), *talk.engine_eof()],
        lambda talk: [
            *talk.engine_opened(),
            *talk.engine_data(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n"),
        ],
    ):
        talk = asked(EVENTS)
        talk.engine_data(CHUNKED)
        assert talk.hold()
        talk.go_on("1")
        commands = fail(talk)
        assert is_over(commands) and not to_client(commands)


def test_a_held_client_that_leaves_is_over() -> None:
    talk = asked(EVENTS)
    talk.engine_data(CHUNKED)
    assert talk.hold()
    assert is_over(talk.client_eof())
    assert talk.go_on("1") == []


def test_a_held_client_whose_machine_was_ended_is_let_go() -> None:
    talk = asked(EVENTS)
    talk.engine_data(CHUNKED)
    assert talk.forget() == [], "one that is not held stays"
    assert talk.hold()
    assert is_over(talk.forget())
