"""What init asks its services: real sockets, one of them of a process that hears nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from proa_guest.probes import BeatProbe, SocketProbe
from tests.support.homes import wait_until


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        listener.settimeout(5)
        yield listener


def _answer(listener: socket.socket, answer: bytes) -> bytes:
    """Take one question, answer it, and end the connection."""
    connection, _ = listener.accept()
    with connection:
        question = connection.recv(100)
        connection.sendall(answer)
        return question


def test_nobody_there_is_no_answer(tmp_path: Path) -> None:
    assert not SocketProbe(str(tmp_path / "nothing"), "http").look()


def test_to_be_accepted_is_no_answer_and_a_late_one_counts(listener: socket.socket) -> None:
    probe = SocketProbe(str(listener.getsockname()), "http")
    assert not probe.look() and not probe.look(), "the kernel accepts for a process that hears nothing"
    assert _answer(listener, b"HTTP/1.0 200 OK\r\n\r\nOK").startswith(b"GET /_ping ")
    assert probe.look()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.0 503 No\r\n\r\n"])
def test_a_bad_answer_is_none_and_the_question_is_put_again(listener: socket.socket, answer: bytes) -> None:
    probe = SocketProbe(str(listener.getsockname()), "http")
    probe.look()
    _answer(listener, answer)
    assert not probe.look()
    probe.look()
    _answer(listener, b"HTTP/1.0 200 OK\r\n\r\nOK")
    assert probe.look()


def test_containerd_answers_with_its_settings(listener: socket.socket) -> None:
    probe = SocketProbe(str(listener.getsockname()), "grpc")
    probe.look()
    assert _answer(listener, b"\0\0\6\4\0\0\0\0\0\0\5\0\0\x40\0").startswith(b"PRI * HTTP/2.0")
    assert probe.look()


def test_many_that_hear_nothing_hold_nobody_up(listener: socket.socket) -> None:
    """A full backlog refuses at once instead of waiting."""
    probes = [SocketProbe(str(listener.getsockname()), "http") for _ in range(20)]
    assert not any(probe.look() for probe in probes)


def test_a_beat_is_news_once(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    probe = BeatProbe(str(beat))
    assert not probe.look()
    beat.touch()
    assert probe.look() and not probe.look()
    os.utime(beat, ns=(1, 1))
    assert probe.look(), "a clock that was set back is no matter"


def test_the_real_guest_agent_beats(tmp_path: Path) -> None:
    from tests.support.native import native_agent

    probe = BeatProbe(str(tmp_path / "beat"))
    with native_agent(tmp_path):
        for _ in range(3):
            wait_until(probe.look, 10, "another beat")
