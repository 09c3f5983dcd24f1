"""Conversations with an engine: streams that last."""

from __future__ import annotations

import io
import json
import re
import secrets
import tarfile

from tests.support.conversations import Stage, chunked, request
from tests.support.fidelity.bodies import an_archive


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
        peer.send(request(line, chunked(an_archive(), 8192), "Transfer-Encoding: chunked"))
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
