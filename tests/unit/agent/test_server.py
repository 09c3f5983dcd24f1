"""The agent's API by its own client, with a real agent that has no image yet: nothing can boot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from proa.agent.agent import Agent
from proa.agent.client import AgentClient
from proa.model.api import ExecRequest, Progress, StopRequest
from proa.model.errors import ProaError
from proa.model.machine import MachineOptions, MachineState
from proa.system.paths import OURS, Places

T = TypeVar("T")


class World:
    """An installation with a running agent, asked from another thread as the CLI would from its process."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.client = AgentClient(places)
        self.said: list[Progress] = []

    async def ask(self, question: Callable[[AgentClient], T]) -> T:
        async with asyncio.timeout(20):
            return await asyncio.to_thread(question, self.client)

    async def make(self, name: str) -> None:
        options = MachineOptions(memory=512 << 20)
        await self.ask(lambda client: client.create(name, options, self.said.append))

    async def raw(self, request: bytes) -> tuple[int, dict[str, object]]:
        """Status and problem of a request that no client of ours would send."""
        reader, writer = await asyncio.open_unix_connection(str(self.places.agent_socket))
        writer.write(request)
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            body = await reader.readexactly(length)
        writer.close()
        content = json.loads(body) if body.startswith(b"{") else {}
        return int(head.split(b" ")[1]), content


@pytest.fixture
async def world(short: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("PROA_HOME", str(short))  # as its client would have it
    places = Places.current({"PROA_HOME": str(short)})
    places.make()
    agent = Agent(places)
    await agent.open()
    try:
        yield World(places)
    finally:
        await agent.close()


async def test_looking_at_what_is_not_there_is_no_error(world: World) -> None:
    assert await world.ask(lambda client: client.machines()) == []
    status = await world.ask(lambda client: client.status("default"))
    assert (status.name, status.state) == ("default", MachineState.ABSENT)


async def test_a_machine_is_made_listed_and_deleted(world: World) -> None:
    await world.make("work")
    assert [line.step for line in world.said] == ["machine"]
    listed = await world.ask(lambda client: client.machines())
    assert [(status.name, status.state, status.memory) for status in listed] == [
        ("work", MachineState.STOPPED, 512 << 20)
    ]
    gone = await world.ask(lambda client: client.delete("work", world.said.append))
    assert gone.state is MachineState.ABSENT
    assert await world.ask(lambda client: client.machines()) == []
    assert not (world.places.machines / "work").exists()
    events = await world.ask(lambda client: list(client.events(10, machine="work")))
    assert [event.message for event in events] == ["it was made", "it was deleted with its data"]
    assert await world.ask(lambda client: list(client.events(10, machine="other"))) == []


async def test_events_are_followed(world: World) -> None:
    stream = world.client.events(0, follow=True)
    waiting = asyncio.get_running_loop().run_in_executor(None, next, stream)
    await world.make("work")
    await world.make("work2")  # whether or not the first one came too early
    async with asyncio.timeout(20):
        assert (await waiting).kind == "state"


async def test_two_at_once_make_or_delete_one_machine(world: World) -> None:
    """Whoever comes second waits and sees what the first has done; nobody meets half a machine."""

    def outcome(error: BaseException | object) -> str:
        return error.code if isinstance(error, ProaError) else "done"

    options = MachineOptions(memory=512 << 20)
    create = partial(AgentClient.create, name="work", options=options, say=print)
    start = partial(AgentClient.start, name="work", say=print)
    delete = partial(AgentClient.delete, name="work", say=print)
    stop = partial(AgentClient.stop, name="work", request=StopRequest(), say=print)
    allowed = {
        "create": {"done", "machine-exists"},
        "start": {"image-missing", "machine-unknown"},  # it fails in this world, or the machine is gone
        "delete": {"done", "machine-unknown"},
        "stop": {"done", "machine-unknown"},
    }
    verbs = {"create": create, "start": start, "delete": delete, "stop": stop}
    for first in verbs:
        for second in verbs:
            pair = (first, second)
            found = await asyncio.gather(*(world.ask(verbs[name]) for name in pair), return_exceptions=True)
            codes = [outcome(one) for one in found]
            assert all(code in allowed[name] for name, code in zip(pair, codes, strict=True)), (pair, codes)
            if pair == ("create", "create"):
                assert sorted(codes) == ["done", "machine-exists"]
            listed = [status.name for status in await world.ask(lambda client: client.machines())]
            folders = [path.name for path in world.places.machines.iterdir() if path.name != OURS]
            assert listed == folders, pair
            if listed:
                await world.ask(delete)


async def test_a_machine_has_a_docker_context_as_long_as_it_is_there(
    world: World, docker_config: Path
) -> None:
    await world.make("work")
    (made,) = docker_config.glob("contexts/meta/*/meta.json")
    socket = world.places.machine("work").engine_socket
    assert json.loads(made.read_text())["Endpoints"]["docker"]["Host"] == f"unix://{socket}"
    assert not (docker_config / "config.json").exists(), (
        "PROA_HOME is set: it does not become the current one"
    )
    await world.ask(lambda client: client.delete("work", world.said.append))
    assert not list(docker_config.glob("contexts/meta/*"))


@pytest.mark.parametrize("variable", ("DOCKER_HOST", "DOCKER_CONTEXT", None))
async def test_a_context_becomes_the_current_one_only_where_nothing_else_is_chosen(
    world: World, docker_config: Path, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proa.engine.context.DEFAULT_SOCKET", docker_config / "none")
    for name in ("PROA_HOME", "DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, "chosen")
    await world.make("work")
    assert list(docker_config.glob("contexts/meta/*/meta.json"))
    config = docker_config / "config.json"
    current = json.loads(config.read_text())["currentContext"] if config.exists() else None
    assert current == (None if variable else "proa-work")


async def test_a_docker_config_that_cannot_be_read_hinders_nothing(
    world: World, docker_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker_config.mkdir()
    (docker_config / "config.json").write_text("{")
    monkeypatch.setattr("proa.engine.context.DEFAULT_SOCKET", docker_config / "none")
    monkeypatch.delenv("PROA_HOME")
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    await world.make("work")
    assert "config.json was left as it is" in world.said[-1].message
    assert (docker_config / "config.json").read_text() == "{"


async def test_a_start_that_fails_is_told_at_the_end_of_its_stream_and_remembered(world: World) -> None:
    await world.make("work")
    with pytest.raises(ProaError) as caught:
        await world.ask(lambda client: client.start("work", world.said.append))
    assert caught.value.code == "image-missing" and caught.value.hint
    status = await world.ask(lambda client: client.status("work"))
    assert status.state is MachineState.BROKEN
    assert status.problem is not None and status.problem.code == "image-missing"


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.stop("nobody", StopRequest(), print),
        lambda client: client.restart("nobody", StopRequest(), print),
        lambda client: client.delete("nobody", print),
        lambda client: client.ports("nobody"),
        lambda client: list(client.logs("nobody", "console", 5, False)),
        lambda client: client.execute("nobody", ExecRequest(argv=("true",))),
    ],
)
async def test_an_unknown_machine_is_said(world: World, ask: Callable[[AgentClient], object]) -> None:
    with pytest.raises(ProaError) as caught:
        await world.ask(ask)
    assert caught.value.code == "machine-unknown"
    assert "proa start nobody" in caught.value.hint


async def test_a_stopped_machine_opens_nothing(world: World) -> None:
    await world.make("work")
    with pytest.raises(ProaError) as caught:
        await world.ask(lambda client: client.execute("work", ExecRequest(argv=("true",))))
    assert caught.value.code == "machine-not-running"
    socket = world.places.machine("work").engine_socket
    reader, writer = await asyncio.open_unix_connection(str(socket))
    with closing(writer):
        writer.write(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n")
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"proa start work" in await reader.read(4096)


async def test_the_agents_own_log_needs_no_machine(world: World) -> None:
    world.places.agent_log.write_text("one\ntwo\nthree\n")
    told = await world.ask(lambda client: b"".join(client.logs("default", "agent", 2, False)))
    assert told == b"two\nthree\n"


async def test_a_followed_log_goes_on(world: World) -> None:
    world.places.agent_log.write_text("one\n")
    stream = world.client.logs("default", "agent", 5, True)
    assert await world.ask(lambda _: next(stream)) == b"one\n"
    with world.places.agent_log.open("a") as log:
        log.write("two\n")
    assert await world.ask(lambda _: next(stream)) == b"two\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /v1/machines/x/start HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n{]}", 400),
        (b'POST /v1/machines/x/start HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n{"cpus":"x"}', 400),
        (b"POST /v1/machines/..%2Fx/start HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}", 400),
        (b"GET /v1/machines/a/logs?source=/etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /v1/machines/a/logs?lines=-1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ],
)
async def test_what_cannot_be_meant_is_refused(world: World, request_: bytes, status: int) -> None:
    found, problem = await world.raw(request_)
    assert found == status
    assert problem["usage"] is True and problem["message"]
    assert await world.ask(lambda client: client.machines()) == []


async def test_the_socket_is_the_users_alone(world: World) -> None:
    socket = world.places.agent_socket
    assert socket.stat().st_mode & 0o777 == 0o600
    assert socket.parent.stat().st_mode & 0o777 == 0o700


async def test_an_answer_that_is_none_is_said(short: Path) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\n<b>x>")
        writer.close()

    places = Places.current({"PROA_HOME": str(short)})
    places.make()
    async with await asyncio.start_unix_server(babble, str(places.agent_socket)):
        with pytest.raises(ProaError) as caught:
            await asyncio.to_thread(AgentClient(places).info)
        assert caught.value.code == "agent-unclear"
