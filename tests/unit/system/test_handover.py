"""A process that is told over a socket, and is given another one over it: the same on every system."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from proa.system import handover
from proa.system.processes import wait_until_gone

PATIENCE = 30.0
CHILD = """
import json, sys
from proa.system import handover
with handover.inherited(sys.argv[1]) as control:
    data, files = b"", []
    while b"\\n" not in data:
        more, found = handover.receive(control, 4096)
        data, files = data + more, files + found
    with handover.taken(json.loads(data), files) as given:
        given.sendall(b"hello " + given.recv(100))
    control.sendall(b"given %d" % len(files))
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log for the process, whose modules are ours."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    return tmp_path / "log"


def test_a_socket_is_given_to_a_process(told: Path) -> None:
    ours, identity = handover.start([sys.executable, "-c", CHILD], log=told)
    near, far = socket.socketpair()
    with ours, near, far:
        assert not ours.getblocking()
        ours.settimeout(PATIENCE)
        near.settimeout(PATIENCE)
        more, files = handover.offer(far, identity.pid)
        data = json.dumps(more).encode() + b"\n"
        assert handover.send(ours, data, files) == len(data)
        near.sendall(b"there")
        assert near.recv(100) == b"hello there", told.read_text()
        assert ours.recv(100) == b"given 0"
        assert wait_until_gone(identity, PATIENCE)


def test_a_message_without_a_socket() -> None:
    assert handover.taken({"op": "status"}, []) is None


async def test_what_comes_is_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(b"x")
        assert await handover.next_received(ours, 10) == (b"x", [])
        theirs.close()
        assert await handover.next_received(ours, 10) == (b"", [])
