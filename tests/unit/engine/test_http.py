"""Heads that are read quickly are read as h11 reads them; everything unusual is left to it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proa.engine.http import Head, HttpError, careful_request, careful_response, plain_request, plain_response

# What docker 26.1, docker-py 7 and the engine 26.1 write.
DOCKER = (
    b"GET /v1.45/containers/json HTTP/1.1\r\nHost: api.moby.localhost\r\n"
    b"User-Agent: Docker-Client/26.1.5+dfsg1 (linux)\r\n\r\n"
)
DOCKER_PY = (
    b"POST /v1.45/containers/create?name=a%20b HTTP/1.1\r\nHost: localhost\r\n"
    b"User-Agent: docker-sdk-python/7.1.0\r\nAccept-Encoding: gzip, deflate\r\nAccept: */*\r\n"
    b"Connection: keep-alive\r\n"
    b"Content-Length: 38\r\nContent-Type: application/json\r\n\r\n"
)
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nApi-Version: 1.45\r\nContent-Type: application/json\r\n"
    b"Docker-Experimental: false\r\nOstype: linux\r\n"
    b"Server: Docker/26.1.5+dfsg1 (linux)\r\nDate: Wed, 25 Nov 2026 07:00:00 GMT\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)

_names = st.sampled_from(
    [b"Host", b"host", b"Content-Length", b"content-length", b"Transfer-Encoding", b"Connection", b"X-a", b"",
     b"A b", b"X\xe9", b" X", b"Upgrade", b"Expect"]
)  # fmt: skip
_values = st.sampled_from(
    [b"", b" ", b"d", b" 5 ", b"5", b"+5", b"5, 5", b"9" * 30, b"chunked", b"Chunked", b"gzip, chunked",
     b"a\tb", b"\t x \t", b"\xe9", b"a\x00b", b"a\rb", b"close", b"keep-alive", b"12"]
)  # fmt: skip
_ends = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\n "])
_fields = st.lists(
    st.builds(lambda name, value, end: name + b":" + value + end, _names, _values, _ends), max_size=5
)
_hosts = st.sampled_from([b"Host: d\r\n", b"Host: d\r\n", b""])
_requests = st.builds(
    lambda line, host, fields, end: line + host + b"".join(fields) + end,
    st.sampled_from(
        [b"GET / HTTP/1.1\r\n", b"POST /a?b=c HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"get / HTTP/1.1\r\n",
         b"GET  / HTTP/1.1\r\n", b"GET /\xc3\xa9 HTTP/1.1\r\n", b"GET /a b HTTP/1.1\r\n", b"GET / HTTP/1.1\n"]
    ),
    _hosts, _fields, st.sampled_from([b"\r\n", b"\r\n", b"\n"]),
)  # fmt: skip
_responses = st.builds(
    lambda line, fields: line + b"".join(fields) + b"\r\n",
    st.sampled_from(
        [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 404 Not Found\r\n", b"HTTP/1.1 101 UPGRADED\r\n",
         b"HTTP/1.1 204\r\n", b"HTTP/1.1 304 \r\n", b"HTTP/1.0 200 OK\r\n",
         b"HTTP/1.1 99 X\r\n", b"HTTP/1.1 500 \xe9\r\n"]
    ),
    _fields,
)  # fmt: skip


@pytest.mark.parametrize("raw", [DOCKER, DOCKER_PY])
def test_the_requests_of_clients_are_read_at_once(raw: bytes) -> None:
    head = plain_request(raw)
    assert head is not None and head == careful_request(raw)


def test_the_answers_of_the_engine_are_read_at_once() -> None:
    head = plain_response(CHUNKED)
    assert head is not None and head == careful_response(CHUNKED, b"GET")


@given(_requests)
@example(DOCKER)
def test_a_request_that_is_read_at_once_is_read_as_h11_reads_it(raw: bytes) -> None:
    head = plain_request(raw)
    assert head is None or head == _or_error(careful_request, raw)


@given(_responses)
@example(CHUNKED)
def test_a_response_that_is_read_at_once_is_read_as_h11_reads_it(raw: bytes) -> None:
    head = plain_response(raw)
    assert head is None or head == _or_error(careful_response, raw, b"GET")


def _or_error(read: object, *arguments: bytes) -> Head | HttpError:
    assert callable(read)
    try:
        found = read(*arguments)
        assert isinstance(found, Head)
    except HttpError as error:
        return error
    return found
