"""An agent's process: one for each installation, replaced where its version differs, ended in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import proa.agent.client
from proa.agent.client import ensure_agent
from proa.agent.spawn import hasten
from proa.model.errors import ProaError
from proa.system.locks import FileLock, is_held
from proa.system.paths import Places
from proa.system.processes import identify, wait_until_gone
from tests.support.homes import wait_until


@pytest.fixture
def places(short: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    monkeypatch.setenv("PROA_HOME", str(short))
    places = Places.current()
    yield places
    _end(places)


def _agents(places: Places) -> list[int]:
    """Pids of all agents of this home, also of one that is only about to ask for its lock."""
    home = f"PROA_HOME={places.home}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            if {b"proa.agent", home} <= set(words.split(b"\0")):
                found.append(int(entry.name))
        except OSError:
            continue  # it ended meanwhile
    return found


def _end(places: Places) -> None:
    for pid in _agents(places):
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not _agents(places), 20, "the agents ended")


def test_many_commands_at_once_start_one_agent(places: Places) -> None:
    with ThreadPoolExecutor(4) as pool:
        pids = {client.info().pid for client in pool.map(ensure_agent, [places] * 4)}
    assert len(pids) == 1


def test_an_agent_that_ended_leaves_nothing_that_hinders_the_next(places: Places) -> None:
    first = ensure_agent(places).info().pid
    _end(places)
    assert not places.agent_socket.exists()
    assert ensure_agent(places).info().pid != first


def test_a_killed_agent_leaves_a_stale_socket_that_is_healed(places: Places) -> None:
    first = identify(ensure_agent(places).info().pid)
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    assert wait_until_gone(first, 20)
    assert places.agent_socket.exists()
    assert ensure_agent(places).info().pid != first.pid


def test_an_agent_that_was_hastened_is_waited_for(places: Places) -> None:
    places.make()
    hastened = hasten(places)
    assert hastened is not None
    wait_until(lambda: is_held(places.agent_lock), 20, "it has its lock, which comes before its imports")
    assert hasten(places) is None
    assert ensure_agent(places).info().pid == hastened.pid
    assert hasten(places) is None


def test_where_the_lock_goes_with_its_holder_another_agent_is_started(places: Places) -> None:
    places.make()
    lock = FileLock.try_acquire(places.agent_lock)
    assert lock is not None
    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(ensure_agent, places)
        with pytest.raises(TimeoutError):
            client.result(0.5)
        assert not _agents(places)
        lock.release()
        assert [client.result(30).info().pid] == _agents(places)


def test_an_agent_of_another_version_is_replaced(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    first = identify(ensure_agent(places).info().pid)
    assert first is not None
    monkeypatch.setattr(proa.agent.client, "__version__", "999")
    second = ensure_agent(places).info().pid
    assert second != first.pid
    assert wait_until_gone(first, 20)


def test_an_agent_that_cannot_start_says_why(places: Places) -> None:
    places.make()
    Path(places.agent_socket).mkdir()
    with pytest.raises(ProaError) as caught:
        ensure_agent(places)
    assert caught.value.code == "agent-did-not-start"
    assert str(places.agent_socket) in caught.value.why, caught.value.lines
    Path(places.agent_socket).rmdir()


def test_an_agent_that_is_there_is_asked_though_nothing_can_be_written(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = ensure_agent(places).info().pid

    def refuse(self: Places) -> None:
        raise ProaError("folder-not-writable", "cannot write")

    monkeypatch.setattr(Places, "make", refuse)
    assert ensure_agent(places).info().pid == pid
    _end(places)
    with pytest.raises(ProaError) as caught:
        ensure_agent(places)
    assert caught.value.code == "folder-not-writable"
