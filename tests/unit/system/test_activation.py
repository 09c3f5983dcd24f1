"""Sockets that a service manager hands over."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proa.system.activation import Listeners, parse
from proa.system.sockets import answers, listen_private
from tests.support.commands import start
from tests.support.homes import wait_until


def _environ(pid: str = "7", count: str = "2", names: str | None = "a:b") -> dict[str, str]:
    return {"LISTEN_PID": pid, "LISTEN_FDS": count, **({} if names is None else {"LISTEN_FDNAMES": names})}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (_environ(), ((3, "a"), (4, "b"))),
        (_environ(names=None), ((3, "unknown"), (4, "unknown"))),
        (_environ(names="a"), ((3, "a"), (4, "unknown"))),
        (_environ(names="a::c:d"), ((3, "a"), (4, "unknown"))),
        (_environ(count="0"), ()),
        (_environ(pid="8"), ()),  # our parent's, inherited
        (_environ(pid=""), ()),
        (_environ(pid="seven"), ()),
        (_environ(count="-1"), ()),
        (_environ(count="2.0"), ()),
        (_environ(count="٢"), ()),  # a digit to str.isdigit, and not to the protocol
        (_environ(count="513"), ()),
        (_environ(count="9" * 5000), ()),
        ({}, ()),
    ],
)
def test_what_was_handed_to_us(environ: dict[str, str], expected: tuple[tuple[int, str], ...]) -> None:
    assert parse(environ, 7) == expected


@pytest.fixture
def handed(tmp_path: Path) -> Iterator[tuple[Path, Listeners]]:
    path = tmp_path / "run" / "a.sock"
    listeners = Listeners([("a", listen_private(path))])
    yield path, listeners
    listeners.close()


def test_a_handed_socket_is_used_and_neither_replaced_nor_removed(handed: tuple[Path, Listeners]) -> None:
    path, listeners = handed
    before = path.stat().st_ino
    for _ in range(2):  # who serves it may change
        with listeners.at(path) as listener, socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            accepted, _ = listener.accept()
            accepted.close()
        listeners.remove(path)
    assert path.stat().st_ino == before
    assert answers(path)  # nobody serves it now: a connection waits for the next one


def test_where_nothing_was_handed_over_sockets_are_our_own(tmp_path: Path) -> None:
    listeners, path = Listeners(), tmp_path / "run" / "b.sock"
    assert not listeners
    with listeners.at(path):
        assert answers(path)
    listeners.remove(path)
    assert not path.exists()


def test_a_socket_that_took_the_place_of_ours_stays(tmp_path: Path) -> None:
    listeners, path = Listeners(), tmp_path / "run" / "b.sock"
    with listeners.at(path), listen_private(path):
        listeners.remove(path)
        assert answers(path)


def test_a_handed_socket_whose_path_is_gone_is_replaced(handed: tuple[Path, Listeners]) -> None:
    path, listeners = handed
    path.unlink()
    with listeners.at(path):
        assert answers(path)
    listeners.remove(path)
    assert not path.exists()


_CHILD = """
import json, os, subprocess, sys
from proa.system.activation import Listeners
listeners = Listeners.take(os.environ)
seen = [name for name in os.environ if name.startswith("LISTEN_")]
held = subprocess.run(["readlink", "/proc/self/fd/3"], close_fds=False, capture_output=True).stdout.decode()
print(json.dumps([[str(path) for path in listeners.paths], seen, "socket" in held]), flush=True)
listener = listeners.at(listeners.paths[0])
listener.setblocking(True)
client, _ = listener.accept()
client.sendall(b"served")
"""


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="systemd is not installed here")
def test_systemd_hands_over_and_the_connection_that_woke_us_is_served(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    options = (f"--listen={path}", "--fdname=a", "--setenv=PYTHONPATH")
    argv = ["systemd-socket-activate", *options, sys.executable, "-c", _CHILD]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with start(argv, env={**environ}) as manager, socket.socket(socket.AF_UNIX) as client:
        wait_until(path.exists, 20, "it listens")
        client.settimeout(20)
        client.connect(str(path))
        assert client.recv(100) == b"served"
        assert manager.stdout is not None
        found, variables, inherited = json.loads(manager.stdout.readline())
    assert found == [str(path)]
    assert variables == []
    assert not inherited
    assert path.exists()
