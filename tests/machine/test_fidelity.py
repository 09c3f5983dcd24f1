"""The same conversations with an engine directly and through Proa: the same bytes, in the same order.

The engine is the guest's own release, run natively, and so is the guest agent; the proxy is the real one.
"""

from __future__ import annotations

import base64
import io
import json
import re
import secrets
import tarfile
import time
from collections.abc import Callable

import pytest

from tests.support.conversations import Stage, chunked, request
from tests.support.native_engine import NativeEngine
from tests.support.native_front import NativeFront

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]
UPGRADE = ("Connection: Upgrade", "Upgrade: tcp")
JSON = "Content-Type: application/json"
IMAGE = "busybox"


# -- attach and exec -----------------------------------------------------------------------------


def attach_raw(stage: Stage) -> None:
    """Without Upgrade the engine answers 200 and then speaks raw; stdin is half-closed."""
    container = stage.container("cat", start=False, OpenStdin=True, StdinOnce=True)
    with stage.peer() as peer:
        peer.send(request(f"POST /containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1", b""))
        peer.head()
        stage.ask("POST", f"/containers/{container}/start")
        peer.send(b"over the wire\n")
        peer.until(b"wire\n")
        peer.half_close()
        peer.rest()


def attach_upgraded(stage: Stage) -> None:
    container = stage.container(
        "sh",
        "-c",
        "read a; echo $a; sleep 0.2; echo err >&2; cat",
        start=False,
        OpenStdin=True,
        StdinOnce=True,
    )
    with stage.peer() as peer:
        peer.send(
            request(
                f"POST /v1.45/containers/{container}/attach?stdin=1&stream=1&stdout=1&stderr=1",
                b"",
                "Content-Type: text/plain",
                *UPGRADE,
            )
        )
        peer.head()
        stage.ask("POST", f"/containers/{container}/start")
        peer.send(b"one\n")
        peer.until(b"one\n.*err\n")
        peer.send(b"two\n")
        peer.until(b"two\n")
        peer.half_close()
        peer.rest()


def attach_tty(stage: Stage) -> None:
    """A terminal: resize, Ctrl-C, and the stream's end with the container's."""
    script = "trap 'echo caught; exit 7' INT; echo begin; read a; stty size; while :; do sleep 0.1; done"
    container = stage.container("sh", "-c", script, start=False, OpenStdin=True, StdinOnce=True, Tty=True)
    with stage.peer() as peer:
        peer.send(request(f"POST /containers/{container}/attach?stdin=1&stream=1&stdout=1", b"", *UPGRADE))
        peer.head()
        stage.ask("POST", f"/containers/{container}/start")
        peer.until(b"begin\r\n")
        stage.ask("POST", f"/containers/{container}/resize?h=33&w=101")
        peer.send(b"go\n")
        peer.until(b"33 101\r\n")
        peer.send(b"\x03")
        peer.until(b"caught\r\n")
        peer.rest()
    assert stage.ask("POST", f"/containers/{container}/wait")["StatusCode"] == 7


def attach_detach_keys(stage: Stage) -> None:
    """Ctrl-P Ctrl-Q, and keys of one's own, let go of a container that goes on running."""
    for keys, typed in (("", b"\x10\x11"), ("&detachKeys=ctrl-x,x", b"\x18x")):
        container = stage.container("cat", OpenStdin=True, Tty=True)
        with stage.peer() as peer:
            target = f"POST /containers/{container}/attach?stdin=1&stream=1&stdout=1{keys}"
            peer.send(request(target, b"", *UPGRADE))
            peer.head()
            peer.send(b"x")
            peer.until(b"x")
            peer.send(typed[:1])
            time.sleep(0.05)  # a person's pace: two keys are two reads
            peer.send(typed[1:])
            peer.rest()
        assert stage.ask("GET", f"/containers/{container}/json")["State"]["Running"]


def attach_websocket(stage: Stage) -> None:
    container = stage.container("cat", OpenStdin=True)
    key = base64.b64encode(bytes(16)).decode()
    with stage.peer() as peer:
        peer.send(
            request(
                f"GET /containers/{container}/attach/ws?stream=1&stdin=1&stdout=1",
                None,
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Origin: http://localhost",
                "Sec-WebSocket-Version: 13",
                f"Sec-WebSocket-Key: {key}",
            )
        )
        peer.head()
        peer.send(b"\x81\x83" + bytes(4) + b"hi\n")  # a masked text frame; the mask is zero
        peer.until(b"hi")
        peer.send(b"\x88\x80" + bytes(4))
        peer.rest()


def exec_raw(stage: Stage) -> None:
    container = stage.container("sleep", "300")
    started = json.dumps({"Detach": False, "Tty": False}).encode()
    for upgrade in ((), UPGRADE):
        execution = stage.execution(container, "sh", "-c", "echo out; sleep 0.2; echo err >&2; exit 3")
        with stage.peer() as peer:
            peer.send(request(f"POST /exec/{execution}/start", started, JSON, *upgrade))
            peer.rest()
        assert stage.ask("GET", f"/exec/{execution}/json")["ExitCode"] == 3


def exec_with_input(stage: Stage) -> None:
    """JetBrains and VS Code keep a shell open like this, and half-close it in the end."""
    container = stage.container("sleep", "300")
    execution = stage.execution(container, "sh", AttachStdin=True)
    with stage.peer() as peer:
        peer.send(request(f"POST /exec/{execution}/start", b'{"Detach":false}', JSON, *UPGRADE))
        peer.head()
        for number in range(5):
            peer.send(b"echo line %d\n" % number)
            peer.until(b"line %d\n" % number)
        peer.half_close()
        peer.rest()


def exec_tty(stage: Stage) -> None:
    container = stage.container("sleep", "300")
    execution = stage.execution(container, "sh", "-c", "read a; stty size", AttachStdin=True, Tty=True)
    with stage.peer() as peer:
        peer.send(request(f"POST /exec/{execution}/start", b'{"Tty":true}', JSON, *UPGRADE))
        peer.head()
        peer.send(b"a")
        peer.until(b"a")
        stage.ask("POST", f"/exec/{execution}/resize?h=20&w=70")
        peer.send(b"\n")
        peer.rest()


def exec_detached(stage: Stage) -> None:
    container = stage.container("sleep", "300")
    with stage.peer() as peer:
        for _ in range(2):
            execution = stage.execution(container, "true")
            peer.send(request(f"POST /exec/{execution}/start", b'{"Detach":true}', JSON))
            peer.answer()


# -- bodies and framing --------------------------------------------------------------------------


def _archive(size: int = 100_000) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo("data")
        info.size = size
        archive.addfile(info, io.BytesIO(bytes(range(256)) * (size // 256 + 1)))
    return out.getvalue()


def chunks_of_any_size(stage: Stage) -> None:
    """docker cp in, with chunks of odd sizes, a chunk's extension and a trailer; and out again."""
    container = stage.container("true", start=False)
    archive = _archive()
    for body in (chunked(archive, 1, 2, 3, 4093), chunked(archive, 1 << 20), chunked(archive, 65_537)):
        with stage.peer() as peer:
            line = f"PUT /containers/{container}/archive?path=/"
            peer.send(request(line, body, "Transfer-Encoding: chunked", "Content-Type: application/x-tar"))
            peer.answer()
            peer.send(request(f"HEAD /containers/{container}/archive?path=/data"))
            peer.head()
    first, rest = archive[:10], archive[10:]
    odd = (
        b"0000a;name=value\r\n"
        + first
        + b"\r\n"
        + b"%X\r\n" % len(rest)
        + rest
        + b"\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    with stage.peer() as peer:
        line = f"PUT /containers/{container}/archive?path=/"
        peer.send(request(line, odd, "Transfer-Encoding: chunked"))
        peer.answer()
        peer.send(request(f"GET /containers/{container}/archive?path=/data"))
        peer.answer()


def byte_by_byte(stage: Stage) -> None:
    """A request that arrives in single bytes, its body chunked."""
    body = chunked(json.dumps({"Image": stage.image, "Cmd": ["true"]}).encode(), 7)
    sent = request("POST /containers/create", body, JSON, "Transfer-Encoding: chunked")
    with stage.peer() as peer:
        for at in range(len(sent)):
            peer.send(sent[at : at + 1])
        made = json.loads(peer.answer())["Id"]
        peer.send(request(f"DELETE /containers/{made}"))
        peer.head()


def expect_continue(stage: Stage) -> None:
    container = stage.container("true", start=False)
    archive = _archive()
    line = f"PUT /containers/{container}/archive?path=/"
    with stage.peer() as peer:
        peer.send(request(line, None, f"Content-Length: {len(archive)}", "Expect: 100-continue"))
        peer.head()
        peer.send(archive)
        peer.answer()
        create = json.dumps({"Image": stage.image, "Cmd": ["true"]}).encode()
        length = f"Content-Length: {len(create)}"
        peer.send(request("POST /containers/create", None, JSON, length, "Expect: 100-continue"))
        peer.head()
        peer.send(create)
        made = json.loads(peer.answer())["Id"]
        stage.ask("DELETE", f"/containers/{made}")
    with stage.peer() as peer:  # refused before the body was asked for
        line = "PUT /containers/nobody/archive?path=/"
        peer.send(request(line, None, "Content-Length: 1000000", "Expect: 100-continue"))
        peer.answer()


def answered_before_the_body(stage: Stage) -> None:
    """An error comes while the body is still on its way; a short rest is read over, a long one is not."""
    for size, sent_late in ((100_000, True), (2_000_000, False)):
        with stage.peer() as peer:
            line = "PUT /containers/nobody/archive?path=/"
            peer.send(request(line, None, f"Content-Length: {size}") + bytes(1000))
            if sent_late:
                peer.silent(0.3)
                peer.send(bytes(size - 1000))
                peer.answer()
                peer.send(request("GET /_ping"))
                peer.answer()
            else:
                peer.answer()
                peer.rest()


def pipelined(stage: Stage) -> None:
    with stage.peer() as peer:
        peer.send(request("GET /_ping") + request("GET /containers/nobody/json") + request("HEAD /_ping"))
        peer.answer()
        peer.answer()
        peer.head()
        peer.send(
            request("POST /containers/nobody/wait", b"") + request("GET /_ping", None, "Connection: close")
        )
        peer.answer()
        peer.answer()
        peer.rest()


def pipelined_and_half_closed(stage: Stage) -> None:
    with stage.peer() as peer:
        peer.send(request("GET /_ping") * 3)
        peer.half_close()
        peer.rest()


def http_1_0(stage: Stage) -> None:
    for headers in ((), ("Connection: keep-alive",)):
        with stage.peer() as peer:
            peer.send(request("GET /_ping", None, *headers, version="1.0"))
            peer.until(b"OK")
            if headers:
                peer.send(request("GET /_ping", None, version="1.0"))
            peer.rest()
    with stage.peer() as peer:
        peer.send(request("GET /containers/nobody/json", None, host="", version="1.0"))
        peer.rest()


def connection_close(stage: Stage) -> None:
    with stage.peer() as peer:
        peer.send(request("GET /containers/nobody/json", None, "Connection: close"))
        peer.rest()
    with stage.peer() as peer:
        peer.send(request("GET /images/json", None, "Connection: Close, TE"))
        peer.rest()


def unusual_requests(stage: Stage) -> None:
    """What curl, old clients and hand-written ones send, and an engine takes."""
    filters = '{"name":["ünïcode"]}'
    for sent in (
        request(f"GET /containers/json?filters={filters}"),
        request("GET //_ping"),
        request("GET /v1.24/../_ping"),
        request("GET http://docker/_ping"),
        request("OPTIONS /containers/json"),
        request("GET /_ping", None, "X-Odd: a\tb  c ", "x-empty:"),
        request("GET /_ping", None, host="%2Fvar%2Frun%2Fdocker.sock"),
        request("GET /containers/nobody%2Fjson"),
        request("GET /no/such/page"),
        request("DELETE /_ping"),
        request("GET /v9.99/version"),
        request("GET /v1.10/version"),
        request("GET /_ping").replace(b"\r\n", b"\n"),
        request("GET /_ping", b"a body that nobody wants"),
    ):
        with stage.peer() as peer:
            peer.send(sent)
            peer.answer()
            peer.send(request("GET /_ping", None, "Connection: close"))
            peer.rest()


def malformed_requests(stage: Stage) -> None:
    """Each costs its own connection, with the engine's own words."""
    for sent in (
        b"nonsense\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /_ping HTTP/3.0\r\nHost: a\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
        b"POST /build HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n",
        b"POST /build HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /build HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * (1 << 21) + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        with stage.peer() as peer:
            try:
                peer.send(sent)
            except (BrokenPipeError, ConnectionResetError):
                assert len(sent) > 1 << 20  # it need not be read to its end
            got = peer.rest()
            if len(sent) > 1 << 20:
                # An end or a reset: that depends on how much of it was read by then, also without Proa.
                peer.said[-1] = ("ended", got)


def bad_json(stage: Stage) -> None:
    """The engine's own words for a body that it cannot read."""
    for body, kind in (
        (b"{", JSON),
        (b"not json", JSON),
        (b"", JSON),
        (b'{"Image": 5}', JSON),
        (b'{"Image":"x"} more', JSON),
        (b'{"Image":"x"}', "Content-Type: text/plain"),
    ):
        for target in ("/containers/create", "/volumes/create"):
            with stage.peer() as peer:
                peer.send(request(f"POST {target}", body, kind))
                peer.answer()
                peer.send(request("GET /_ping"))
                peer.answer()


def large_registry_config(stage: Stage) -> None:
    logins = {f"registry-{number}.example": {"auth": "x" * 200} for number in range(400)}
    value = base64.urlsafe_b64encode(json.dumps(logins).encode()).decode()
    assert len(value) > 64 << 10
    with stage.peer() as peer:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            dockerfile = f"FROM {stage.image}\n".encode()
            info = tarfile.TarInfo("Dockerfile")
            info.size = len(dockerfile)
            archive.addfile(info, io.BytesIO(dockerfile))
        headers = (f"X-Registry-Config: {value}", "Content-Type: application/x-tar")
        peer.send(request("POST /build?t=logins&version=1", out.getvalue(), *headers))
        peer.answer()


def errors(stage: Stage) -> None:
    running = stage.container("sleep", "300")
    with stage.peer() as peer:
        for line, body in (
            ("GET /containers/nobody/json", None),
            ("GET /images/nobody/json", None),
            (f"DELETE /containers/{running}", None),  # 409
            (f"POST /containers/{running}/unpause", b""),  # 500
            (f"POST /containers/{running}/start", b""),  # 304
            ("POST /containers/create?name=!", json.dumps({"Image": stage.image}).encode()),
            ("POST /containers/create", b'{"Image":"nobody"}'),
            ("GET /containers/json?filters=nonsense", None),
            (f"POST /containers/{running}/kill?signal=NONE", b""),
            (f"POST /containers/{running}/attach?stream=1", b""),
            ("POST /exec/nobody/start", b"{}"),
            ("POST /swarm/leave", b""),
            ("GET /services", None),
        ):
            peer.send(request(line, body, JSON))
            if "attach" in line:  # nothing is asked for: it stays open until the container ends
                peer.head()
                break
            peer.answer()


def head_ping(stage: Stage) -> None:
    with stage.peer() as peer:
        for _ in range(3):
            peer.send(request("HEAD /_ping"))
            peer.head()
        peer.send(request("GET /_ping"))
        peer.answer()


# -- long streams --------------------------------------------------------------------------------


def logs_follow(stage: Stage) -> None:
    script = "echo one; sleep 0.3; echo two >&2; sleep 0.7; echo three"
    container = stage.container("sh", "-c", script)
    with stage.peer() as peer:
        peer.send(request(f"GET /containers/{container}/logs?follow=1&stdout=1&stderr=1"))
        peer.until(b"three\n")
        peer.until(rb"0\r\n\r\n")


def events(stage: Stage) -> None:
    """Live, filtered, and silent in between."""
    container = stage.container("sleep", "300")
    filters = json.dumps({"container": [container], "event": ["pause", "unpause"]}).replace(" ", "")
    with stage.peer() as peer:
        peer.send(request(f"GET /events?filters={filters}"))
        peer.head()
        peer.silent(1)
        stage.ask("POST", f"/containers/{container}/pause")
        peer.until(rb"}\n")
        stage.ask("POST", f"/containers/{container}/unpause")
        peer.until(rb"}\n")


def wait_for_the_end(stage: Stage) -> None:
    """`docker run` waits like this: the head comes at once, the answer when the container ends."""
    container = stage.container("sh", "-c", "sleep 1; exit 9", start=False)
    with stage.peer() as peer:
        peer.send(request(f"POST /containers/{container}/wait?condition=next-exit", b""))
        peer.head()
        stage.ask("POST", f"/containers/{container}/start")
        peer.until(rb"0\r\n\r\n")


def stats(stage: Stage) -> None:
    with stage.peer() as peer:
        peer.send(request("GET /containers/nobody/stats?stream=0"))
        peer.answer()


def session_and_grpc(stage: Stage) -> None:
    """BuildKit's ways in: h2c on a hijacked connection."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    with stage.peer() as peer:
        peer.send(request("POST /grpc", b"", "Connection: Upgrade", "Upgrade: h2c"))
        peer.head()
        peer.send(preface)
        peer.until(rb"\x00\x00.\x04\x00\x00\x00\x00\x00")  # the server's own settings frame
        told = peer.until(rb"\x00\x00\x00\x04\x01\x00\x00\x00\x00")  # and its word on ours
        # A WINDOW_UPDATE (RFC 9113 6.9) goes before it or after it, as the engine's own threads have it.
        window = rb"\x00\x00\x04\x08\x00\x00\x00\x00\x00.{4}"
        peer.said[-1] = ("got", re.sub(window, b"", told, flags=re.DOTALL))
    with stage.peer() as peer:
        names = (
            f"X-Docker-Expose-Session-Uuid: {secrets.token_hex(8)}",
            "X-Docker-Expose-Session-Name: test",
        )
        peer.send(request("POST /session", b"", "Connection: Upgrade", "Upgrade: h2c", *names))
        peer.head()  # here the engine is the client; when it begins to speak is up to it
    with stage.peer() as peer:
        peer.send(request("POST /session", b""))
        peer.answer()


def import_and_save(stage: Stage) -> None:
    with stage.peer() as peer:
        line = "POST /images/create?fromSrc=-&repo=imported&tag=one"
        peer.send(request(line, chunked(_archive(), 8192), "Transfer-Encoding: chunked"))
        peer.answer()
        peer.send(request("GET /images/imported:one/get"))
        saved = peer.answer()
        with tarfile.open(fileobj=io.BytesIO(content(saved))) as archive:  # its files' times differ
            names = [re.sub("[0-9a-f]{64}", "<id>", member.name) for member in archive]
        peer.said[-1] = ("saved", "\n".join(sorted(names)).encode())
        peer.send(request("POST /images/load?quiet=1", content(saved)))
        peer.answer()
        peer.send(request("DELETE /images/imported:one"))
        peer.answer()


def content(framed: bytes) -> bytes:
    """The content of a chunked body."""
    out, at = b"", 0
    while True:
        end = framed.index(b"\r\n", at)
        size = int(framed[at:end], 16)
        if not size:
            return out
        out += framed[end + 2 : end + 2 + size]
        at = end + 4 + size


# -- how known clients talk ----------------------------------------------------------------------


def docker_py(stage: Stage) -> None:
    """requests keeps one connection, asks for compression, and names a type on every request."""
    usual = ("User-Agent: docker-sdk-python/7.1.0", "Accept-Encoding: gzip, deflate", "Accept: */*")
    host = "localhost"
    create = json.dumps({"Image": stage.image, "Cmd": ["echo", "hi"], "HostConfig": {"NetworkMode": "none"}})
    with stage.peer() as peer:
        peer.send(request("GET /version", None, *usual, "Connection: keep-alive", host=host))
        peer.answer()
        line = "POST /v1.45/containers/create"
        peer.send(request(line, create.encode(), *usual, "Connection: keep-alive", JSON, host=host))
        made = json.loads(peer.answer())["Id"]
        line = f"POST /v1.45/containers/{made}/start"
        peer.send(request(line, None, *usual, "Connection: keep-alive", "Content-Length: 0", host=host))
        peer.head()
        line = f"POST /v1.45/containers/{made}/wait"
        peer.send(request(line, None, *usual, "Connection: keep-alive", "Content-Length: 0", host=host))
        peer.answer()
        line = f"GET /v1.45/containers/{made}/logs?stderr=1&stdout=1&timestamps=0&follow=0&tail=all"
        peer.send(request(line, None, *usual, "Connection: keep-alive", host=host))
        peer.answer()
        line = f"DELETE /v1.45/containers/{made}?v=False&link=False&force=True"
        peer.send(request(line, None, *usual, "Connection: keep-alive", "Content-Length: 0", host=host))
        peer.head()


def docker_java(stage: Stage) -> None:
    """testcontainers and JetBrains: Apache's client, chunked JSON, `Upgrade: tcp` only where it attaches."""
    usual = (
        "accept: application/json",
        "User-Agent: tc-java/1.20.1",
        "Accept-Encoding: gzip, x-gzip, deflate",
    )
    create = {"Image": stage.image, "Cmd": ["sleep", "300"], "Labels": {"org.testcontainers": "true"}}
    with stage.peer() as peer:
        peer.send(request("GET /_ping", None, *usual, host="localhost:2375"))
        peer.answer()
        peer.send(request("GET /info", None, *usual, host="localhost:2375"))
        peer.head()
    with stage.peer() as peer:
        body = chunked(json.dumps(create).encode(), 2048)
        line = "POST /v1.32/containers/create?name="
        chunks = "Transfer-Encoding: chunked"
        peer.send(request(line, body, *usual, JSON, chunks, host="localhost:2375"))
        made = json.loads(peer.answer())["Id"]
        peer.send(request(f"POST /v1.32/containers/{made}/start", b"", *usual, host="localhost:2375"))
        peer.head()
        command = json.dumps({"AttachStdout": True, "AttachStderr": True, "Cmd": ["echo", "up"]}).encode()
        line = f"POST /v1.32/containers/{made}/exec"
        peer.send(request(line, chunked(command, 2048), *usual, JSON, chunks, host="localhost:2375"))
        execution = json.loads(peer.answer())["Id"]
    with stage.peer() as peer:
        line = f"POST /v1.32/exec/{execution}/start"
        headers = (*usual, JSON, chunks, "Connection: Upgrade", "Upgrade: tcp")
        peer.send(request(line, chunked(b'{"Detach":false}', 2048), *headers, host="localhost:2375"))
        peer.rest()
    stage.ask("DELETE", f"/containers/{made}?force=1")


def vs_code(stage: Stage) -> None:
    """Node's client through dockerode: a request each connection, exec with its body and hijack."""
    container = stage.container("sleep", "300", Labels={"devcontainer.local_folder": "/x"})
    filters = '{"label":["devcontainer.local_folder=/x"]}'
    with stage.peer() as peer:
        peer.send(request(f"GET /containers/json?all=true&filters={filters}", None, "Connection: close"))
        peer.rest()
    execution = stage.execution(container, "sh", "-c", "uname; cat", AttachStdin=True)
    with stage.peer() as peer:
        body = b'{"Detach":false,"Tty":false,"hijack":true,"stdin":true}'
        peer.send(request(f"POST /exec/{execution}/start", body, JSON, *UPGRADE))
        peer.until(b"Linux\n")
        peer.send(b"typed\n")
        peer.until(b"typed\n")
        peer.half_close()
        peer.rest()


VARYING = {docker_py, docker_java, vs_code, import_and_save, chunks_of_any_size}  # dates change their lengths
CONVERSATIONS: tuple[Callable[[Stage], None], ...] = (
    attach_raw,
    attach_upgraded,
    attach_tty,
    attach_detach_keys,
    attach_websocket,
    exec_raw,
    exec_with_input,
    exec_tty,
    exec_detached,
    chunks_of_any_size,
    byte_by_byte,
    expect_continue,
    answered_before_the_body,
    pipelined,
    pipelined_and_half_closed,
    http_1_0,
    connection_close,
    unusual_requests,
    malformed_requests,
    bad_json,
    large_registry_config,
    errors,
    head_ping,
    logs_follow,
    events,
    wait_for_the_end,
    stats,
    session_and_grpc,
    import_and_save,
    docker_py,
    docker_java,
    vs_code,
)


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda function: function.__name__)
def test_no_client_can_tell(
    engine: NativeEngine, front: NativeFront, conversation: Callable[[Stage], None]
) -> None:
    transcripts = []
    for path in (engine.socket, front.socket):
        stage = Stage(path, IMAGE)
        try:
            conversation(stage)
        finally:
            stage.sweep()
        transcripts.append(stage.transcript(lengths=conversation not in VARYING))
    assert transcripts[1] == transcripts[0]
