"""A command in the guest attached to a process of this host: that is a real one here, the guest is played."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proa.cli.session import CHUNK
from proa_guest import wire

# The session's process: the number of its connection is its argument.
PROGRAM = """
import signal, socket, sys
from proa.cli.session import Session
from proa.model.errors import ProaError
connection = socket.socket(fileno=int(sys.argv[1]))
session = Session(
    connection, resizes=False, signals=(signal.SIGINT, signal.SIGTERM), answer=lambda question: question[::-1]
)
try:
    sys.exit(session.run())
except ProaError as error:
    print(error.code, file=sys.stderr)
    sys.exit(99)
"""


class Guest:
    """The other end: `frames` as they come."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._taker = wire.Frames()
        self._came: list[tuple[int, bytes]] = []

    def next(self) -> tuple[int, bytes]:
        while not self._came:
            data = self.connection.recv(1 << 16)
            assert data, "the process went away"
            self._came += self._taker.feed(data)
        return self._came.pop(0)

    def say(self, kind: int, payload: bytes = b"") -> None:
        self.connection.sendall(wire.frame(kind, payload))

    def end(self, status: int) -> None:
        self.connection.sendall(wire.exit_frame(status))


Start = Callable[..., tuple[subprocess.Popen[bytes], Guest]]


@pytest.fixture
def start() -> Iterator[Start]:
    opened: list[tuple[subprocess.Popen[bytes], socket.socket]] = []

    def begin(**streams: object) -> tuple[subprocess.Popen[bytes], Guest]:
        near, far = socket.socketpair()
        near.settimeout(20)
        with far:
            process = subprocess.Popen(  # type: ignore[call-overload]
                [sys.executable, "-c", PROGRAM, str(far.fileno())],
                pass_fds=(far.fileno(),),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
            )
        opened.append((process, near))
        return process, Guest(near)

    yield begin
    for process, connection in opened:
        process.kill()
        process.communicate()
        connection.close()


def test_streams_are_kept_apart_and_the_status_is_the_commands(start: Start) -> None:
    process, guest = start()
    assert process.stdin is not None
    process.stdin.write(b"typed")
    process.stdin.close()
    assert guest.next() == (wire.STDIN, b"typed")
    assert guest.next() == (wire.STDIN_EOF, b"")
    guest.say(wire.STDOUT, b"out")
    guest.say(wire.STDERR, b"err")
    guest.end(37)
    process.stdin = None
    out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == (b"out", b"err", 37)


def test_a_file_as_input_flows_while_its_echo_comes_back(start: Start, tmp_path: Path) -> None:
    """An echo that is not read until all is sent would hold up both sides for ever."""
    data = os.urandom(8 << 20)
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        process, guest = start(stdin=file)

    def echo() -> None:
        while (frame := guest.next())[0] == wire.STDIN:
            guest.say(wire.STDOUT, frame[1])
            guest.say(wire.TAKEN, len(frame[1]).to_bytes(4, "big"))
        guest.end(0)

    echoing = threading.Thread(target=echo)
    echoing.start()
    out, _ = process.communicate(timeout=60)
    echoing.join(20)
    assert out == data and process.returncode == 0


def test_signals_are_the_commands(start: Start) -> None:
    process, guest = start(stdin=subprocess.DEVNULL)
    assert guest.next() == (wire.STDIN_EOF, b"")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
        assert guest.next() == (wire.SIGNAL, bytes((number,)))
    guest.end(130)
    process.communicate(timeout=20)
    assert process.returncode == 130


def test_questions_are_answered(start: Start) -> None:
    process, guest = start(stdin=subprocess.DEVNULL)
    assert guest.next() == (wire.STDIN_EOF, b"")
    guest.say(wire.ASK, json.dumps("abc").encode())
    assert guest.next() == (wire.ANSWER, b'"cba"')
    guest.end(0)
    process.communicate(timeout=20)


def test_a_question_is_answered_while_the_command_takes_no_input(start: Start, tmp_path: Path) -> None:
    """A large input waits while the command asks for a login, say: the answer is not behind all of it."""
    (tmp_path / "file").write_bytes(bytes(wire.MOST_INPUT * 3))
    with (tmp_path / "file").open("rb") as file:
        process, guest = start(stdin=file)
    came = sum(len(guest.next()[1]) for _ in range(wire.MOST_INPUT // CHUNK))
    guest.say(wire.ASK, b"abc")
    assert (came, guest.next()) == (wire.MOST_INPUT, (wire.ANSWER, b"cba"))
    guest.say(wire.TAKEN, (CHUNK + 1).to_bytes(4, "big"))
    assert [len(guest.next()[1]) for _ in range(2)] == [CHUNK, CHUNK]
    guest.end(0)
    process.communicate(timeout=20)


def test_a_closed_input_is_an_ended_one(start: Start) -> None:
    def close_input() -> None:
        os.close(0)

    process, guest = start(stdin=None, preexec_fn=close_input)
    assert guest.next() == (wire.STDIN_EOF, b"")
    guest.end(0)
    process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.parametrize("last", [b"", b"\xff" * 5])
def test_a_guest_that_goes_or_speaks_nonsense_is_said(start: Start, last: bytes) -> None:
    process, guest = start(stdin=subprocess.DEVNULL)
    guest.next()
    guest.connection.sendall(last)
    guest.connection.shutdown(socket.SHUT_RDWR)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (99, b"guest-lost\n")
