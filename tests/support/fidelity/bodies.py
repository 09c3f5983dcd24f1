"""Conversations with an engine: how requests are framed, well and badly."""

from __future__ import annotations

import base64
import io
import json
import tarfile

from tests.support.conversations import Stage, chunked, request

JSON = "Content-Type: application/json"


def an_archive(size: int = 100_000) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo("data")
        info.size = size
        archive.addfile(info, io.BytesIO(bytes(range(256)) * (size // 256 + 1)))
    return out.getvalue()


def chunks_of_any_size(stage: Stage) -> None:
    """docker cp in, with chunks of odd sizes, a chunk's extension and a trailer; and out again."""
    container = stage.container("true", start=False)
    archive = an_archive()
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
    archive = an_archive()
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


def bind_mounts(stage: Stage) -> None:
    """Folders in each form, and every answer that names one: the engine's own paths are never seen."""
    forms: tuple[dict[str, object], ...] = (
        {"Binds": ["/etc:/x:ro"]},
        {"Binds": ["/mnt:/x:rw,rslave"]},
        {"Mounts": [{"Type": "bind", "Source": "/etc", "Target": "/x", "ReadOnly": True}]},
        {"Mounts": [{"Type": "bind", "Source": "/nowhere", "Target": "/x"}]},
        {"Binds": ["/var/run/docker.sock:/x"], "Tmpfs": {"/y": "size=1m"}},
        {"Binds": ["relative/path:/x"]},
        {"Binds": ["/etc"]},
    )
    for form in forms:
        wanted = {"Image": stage.image, "Cmd": ["ls", "/x"], "HostConfig": {"NetworkMode": "none", **form}}
        with stage.peer() as peer:
            line = "POST /v1.45/containers/create?name=conversation-bind"
            peer.send(request(line, json.dumps(wanted).encode(), JSON))
            made = json.loads(peer.answer()).get("Id")
            if made is None:
                continue
            for line in (f"GET /containers/{made}/json", "GET /containers/json?all=1"):
                peer.send(request(line))
                peer.answer()
            peer.send(request(f"DELETE /containers/{made}?v=1"))
            peer.answer()
    options = {"type": "none", "o": "bind", "device": "/etc"}
    wanted = {"Name": "conversation-bind", "Driver": "local", "DriverOpts": options}
    with stage.peer() as peer:
        peer.send(request("POST /volumes/create", json.dumps(wanted).encode(), JSON))
        peer.answer()
        mine = 'GET /volumes?filters={"name":["conversation-bind"]}'
        for line in ("GET /volumes/conversation-bind", mine, "DELETE /volumes/conversation-bind"):
            peer.send(request(line))
            peer.answer()
