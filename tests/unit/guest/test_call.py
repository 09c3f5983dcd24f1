"""Calls: the sockets of a command that runs in the guest for the host, and what is left of it afterwards."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proa_guest import wire
from proa_guest.call import Calls, Spec

# Stands for the launcher and the Docker CLI: it speaks on both of its sockets, and says what it heard.
COMMAND = """
import json, os, socket, sys
spec = json.load(open(sys.argv[1]))
folder = spec["environ"]["PROA_CALL"]
def speak(name, data):
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(os.path.join(folder, name))
        end.sendall(data)
        end.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: end.recv(4096), b"")).decode()
print(speak("engine.sock", b"first"), speak("engine.sock", b"second"))
question = {"action": "get", "input": "registry.example"}
print(json.loads(speak("credentials.sock", json.dumps(question).encode()))["output"])
print(json.load(open(os.path.join(folder, "docker/config.json"))))
sys.exit(7)
"""
CONTENT: dict[str, object] = {
    "call": "a1",
    "argv": ["ps", "-a"],
    "cwd": "/home/me/project",
    "home": "/home/me",
    "note": "",
    "folders": [["/home/me", "/home/me"]],
    "environ": {"PATH": "/evil", "LD_PRELOAD": "/evil.so", "MINE": "1", "DOCKER_HOST": "tcp://x"},
    "settings": {"psFormat": "x", "credsStore": "osxkeychain"},
    "terminals": [False, False, False],
    "rows": 24,
    "columns": 80,
}

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a path short enough for a socket's."""
    place = Path(tempfile.mkdtemp(prefix="proa-unit-"))
    yield place
    shutil.rmtree(place)


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "calls"
        self.calls = Calls(str(self.folder), [sys.executable, "-c", COMMAND])
        self.writers: list[asyncio.StreamWriter] = []

    async def stream(self, end: asyncio.Protocol) -> Streams:
        """A stream of the host's that has that end in the guest."""
        near, far = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=near)
        self.writers.append(writer)
        await asyncio.get_running_loop().create_connection(lambda: end, sock=far)
        return reader, writer

    async def park(self, name: str = "a1") -> Streams:
        return await self.stream(self.calls.parked({"call": name, "kind": "engine"}))


@pytest.fixture
async def world(folder: Path) -> AsyncIterator[World]:
    world = World(folder)
    yield world
    for writer in world.writers:
        writer.close()


async def served(streams: Streams) -> str:
    """Serve what claims the stream: what it said, answered by the same in capitals."""
    reader, writer = streams
    assert await reader.readline() == wire.CLAIM
    said = await reader.read()
    writer.write(said.upper())
    writer.write_eof()
    return said.decode()


async def test_a_command_speaks_with_the_host_and_leaves_nothing(world: World) -> None:
    reader, writer = await world.stream(await world.calls.begin(CONTENT))
    async with asyncio.timeout(20):
        assert await served(await world.park()) == "first"
        assert await served(await world.park()) == "second"
        unclaimed, _ = await world.park()
        out, status, frames = b"", -1, wire.Frames()
        while data := await reader.read(4096):
            for kind, payload in frames.feed(data):
                if kind == wire.ASK:
                    asked = json.loads(payload)
                    assert (asked["action"], asked["input"]) == ("get", "registry.example")
                    answer = {"id": asked["id"], "status": 0, "output": "a login"}
                    writer.write(wire.frame(wire.ANSWER, json.dumps(answer).encode()))
                elif kind == wire.EXIT:
                    status = wire.exit_status(payload)
                else:
                    out += payload
        assert out.decode().splitlines() == [
            "FIRST SECOND",
            "a login",
            "{'psFormat': 'x', 'credsStore': 'proa'}",
        ]
        assert status == 7
        assert await unclaimed.read() == b"", "a stream that nobody claimed is ended"
    assert not list(world.folder.iterdir())
    with pytest.raises(wire.WireError):
        world.calls.parked({"call": "a1", "kind": "engine"})


async def test_when_the_host_goes_nothing_is_left_either(world: World) -> None:
    _, writer = await world.stream(await world.calls.begin(CONTENT))
    (world.folder / "a1/docker/made/deep").mkdir(parents=True)
    (world.folder / "a1/docker/made/deep/file").write_text("by the command")
    (world.folder / "a1/docker/link").symlink_to("/")
    assert (world.folder / "a1").stat().st_mode & 0o777 == 0o700
    assert (world.folder / "a1/docker/config.json").stat().st_mode & 0o777 == 0o600
    writer.transport.abort()
    async with asyncio.timeout(20):
        while list(world.folder.iterdir()):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "change",
    [
        {"call": "../up"},
        {"call": ""},
        {"call": None},
        {"argv": "ps"},
        {"argv": ["nul\0"]},
        {"terminals": []},
        {"folders": [["/one"]]},
        {"environ": []},
        {"settings": None},
    ],
)
async def test_what_is_no_call_is_refused_and_makes_nothing(world: World, change: dict[str, object]) -> None:
    with pytest.raises(wire.WireError):
        await world.calls.begin({**CONTENT, **change})
    assert not world.folder.exists() or not list(world.folder.iterdir())


async def test_streams_are_parked_for_calls_that_run_and_for_no_other_kind(world: World) -> None:
    _, _ = await world.stream(await world.calls.begin(CONTENT))
    for wrong in ({"call": "b", "kind": "engine"}, {"call": "a1", "kind": "ssh-agent"}, {}):
        with pytest.raises(wire.WireError):
            world.calls.parked(wrong)
    with pytest.raises(wire.WireError):
        await world.calls.begin(CONTENT)


def test_the_command_gets_the_users_environment_but_for_what_is_the_guests() -> None:
    told = Spec(CONTENT).told("/run/proa/calls/a1")
    environ = told["environ"]
    assert isinstance(environ, dict)
    assert environ.pop("PATH").startswith("/usr/lib/proa/bin:")
    assert environ == {
        "MINE": "1",
        "HOME": "/home/me",
        "PWD": "/home/me/project",
        "DOCKER_HOST": "unix:///run/proa/calls/a1/engine.sock",
        "DOCKER_CONFIG": "/run/proa/calls/a1/docker",
        "BUILDX_CONFIG": "/var/lib/proa/buildx",
        "PROA_CALL": "/run/proa/calls/a1",
    }
    assert told["argv"] == ["/usr/bin/docker", "ps", "-a"]
    assert told["folders"] == [["/run/proa/host/home/me", "/home/me"]]
