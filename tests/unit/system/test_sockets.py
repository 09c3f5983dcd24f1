from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from proa.model.errors import ProaError
from proa.system.sockets import answers, listen_private, receive_now


def test_a_socket_is_private_and_replaces_a_stale_one(tmp_path: Path) -> None:
    path = tmp_path / "run" / "a.sock"
    listen_private(path).close()
    assert path.exists() and not answers(path)
    with listen_private(path):
        assert answers(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_what_is_not_a_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run" / "a.sock"
    path.parent.mkdir()
    target = tmp_path / "precious"
    target.write_text("mine")
    path.symlink_to(target)
    with pytest.raises(ProaError) as caught:
        listen_private(path)
    assert caught.value.code == "socket-path-taken"
    assert target.read_text() == "mine"


def test_what_is_there_already_is_received_and_nothing_waited_for() -> None:
    ours, theirs = socket.socketpair()
    room = bytearray(4)
    with ours, theirs:
        assert receive_now(ours, memoryview(room)) is None
        theirs.sendall(b"abcdef")
        assert receive_now(ours, memoryview(room)) == 4 and room == b"abcd"
        assert receive_now(ours, memoryview(room)) == 2
        theirs.shutdown(socket.SHUT_WR)
        assert receive_now(ours, memoryview(room)) == 0
