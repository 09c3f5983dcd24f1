"""Conversations with an engine: attach and exec, in all their forms."""

from __future__ import annotations

import base64
import json
import time

from tests.support.conversations import Peer, Stage, request

UPGRADE = ("Connection: Upgrade", "Upgrade: tcp")
JSON = "Content-Type: application/json"


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


def _let_go(peer: Peer, typed: bytes) -> None:
    """Type the keys that detach from a `cat` at a terminal."""
    peer.send(b"x")
    peer.until(b"x")
    peer.send(typed[:1])
    time.sleep(0.05)  # a person's pace: two keys are two reads
    peer.send(typed[1:])
    peer.rest()


def attach_detach_keys(stage: Stage) -> None:
    """Ctrl-P Ctrl-Q, and keys of one's own, let go of a container that goes on running."""
    for keys, typed in (("", b"\x10\x11"), ("&detachKeys=ctrl-x,x", b"\x18x")):
        container = stage.container("cat", OpenStdin=True, Tty=True)
        with stage.peer() as peer:
            target = f"POST /containers/{container}/attach?stdin=1&stream=1&stdout=1{keys}"
            peer.send(request(target, b"", *UPGRADE))
            peer.head()
            _let_go(peer, typed)
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


def exec_ctrl_c(stage: Stage) -> None:
    """The key goes to what runs there, whose end is the stream's."""
    container = stage.container("sleep", "300")
    script = "trap 'echo caught; exit 7' INT; echo begin; while :; do sleep 0.1; done"
    execution = stage.execution(container, "sh", "-c", script, AttachStdin=True, Tty=True)
    with stage.peer() as peer:
        peer.send(request(f"POST /exec/{execution}/start", b'{"Tty":true}', JSON, *UPGRADE))
        peer.until(b"begin\r\n")
        peer.send(b"\x03")
        peer.until(b"caught\r\n")
        peer.rest()
    assert stage.ask("GET", f"/exec/{execution}/json")["ExitCode"] == 7


def exec_detach_keys(stage: Stage) -> None:
    """They let go of a command; whether it goes on is the engine's to decide."""
    container = stage.container("sleep", "300")
    for keys, typed in ((None, b"\x10\x11"), ("ctrl-x,x", b"\x18x")):
        more = {} if keys is None else {"DetachKeys": keys}
        execution = stage.execution(container, "cat", AttachStdin=True, Tty=True, **more)
        with stage.peer() as peer:
            peer.send(request(f"POST /exec/{execution}/start", b'{"Tty":true}', JSON, *UPGRADE))
            peer.head()
            _let_go(peer, typed)
            running = stage.ask("GET", f"/exec/{execution}/json")["Running"]
            peer.said.append(("running", repr(running).encode()))


def exec_detached(stage: Stage) -> None:
    container = stage.container("sleep", "300")
    with stage.peer() as peer:
        for _ in range(2):
            execution = stage.execution(container, "true")
            peer.send(request(f"POST /exec/{execution}/start", b'{"Detach":true}', JSON))
            peer.answer()
