"""An agent that was handed its sockets: it serves them, for a machine that is there and one that is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

from proa.agent.agent import Agent
from proa.agent.client import AgentClient
from proa.model.machine import MachineOptions
from proa.system.activation import Listeners
from proa.system.paths import Places
from proa.system.sockets import answers, listen_private

REQUEST = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"


async def _ask(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(REQUEST)
    async with asyncio.timeout(20):
        answer = await reader.read(4096)
    writer.close()
    return answer


async def test_handed_sockets_are_served_for_whoever_is_there(short: Path) -> None:
    places = Places.current({"PROA_HOME": str(short)})
    places.make()
    engine = places.machine("default").engine_socket
    strange = places.run / "strange.sock"
    handed = {path: listen_private(path) for path in (places.agent_socket, engine, strange)}
    before = {path: path.stat().st_ino for path in handed}
    waiting = asyncio.create_task(_ask(engine))
    await asyncio.sleep(0)

    agent = Agent(places, Listeners((path.name, listener) for path, listener in handed.items()))
    await agent.open()
    assert b"there is no machine 'default'" in await waiting
    assert (await asyncio.to_thread(AgentClient(places).info)).machines == 0

    await agent.make("default", MachineOptions(memory=512 << 20))
    told = await _ask(engine)
    assert told.startswith(b"HTTP/1.1 503 ") and b"the machine 'default' is stopped" in told
    await agent.close()

    assert {path: path.stat().st_ino for path in handed} == before
    assert not answers(engine)  # what we held is closed; a service manager holds its own
