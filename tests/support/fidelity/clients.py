"""Conversations with an engine: how known clients talk."""

from __future__ import annotations

import json

from tests.support.conversations import Stage, chunked, request

UPGRADE = ("Connection: Upgrade", "Upgrade: tcp")
JSON = "Content-Type: application/json"


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
