"""The agent's HTTP API on its private socket (proa.model.api names routes and types)."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from proa import __version__
from proa.agent import streams
from proa.model.api import API_VERSION, AgentInfo, Done, ExecRequest, Failed, Message, Progress, StopRequest
from proa.model.errors import ProaError
from proa.model.machine import MachineOptions, MachineState, MachineStatus
from proa.model.names import check_name
from proa.model.problem import Problem
from proa.system.sockets import listen_private
from proa.system.tasks import Tasks

if TYPE_CHECKING:
    from proa.agent.agent import Agent

log = logging.getLogger("proa.agent")

MOST_BODY = 1 << 20  # bytes; options are small
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Say = Callable[[str, str, float | None], None]


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", charset="utf-8"
    )


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One place where a ProaError becomes an answer."""
    try:
        return await handler(request)
    except ProaError as error:
        missing = error.code == "machine-unknown"
        return _json(Problem.of(error), 400 if error.usage else 404 if missing else 500)
    except msgspec.DecodeError as error:
        problem = Problem(
            code="bad-request", message="the request cannot be read", why=str(error), usage=True
        )
        return _json(problem, 400)


class ApiServer:
    """Answers the CLI and the desktop."""

    def __init__(self, agent: Agent, path: Path) -> None:
        self._agent = agent
        self._path = path
        self._tasks = Tasks("api")
        self._runner: web.AppRunner | None = None

    async def open(self) -> None:
        app = web.Application(middlewares=[_problems], client_max_size=MOST_BODY)
        app.add_routes(
            [
                web.get("/v1/agent", self._info),
                web.get("/v1/machines", self._list),
                web.get("/v1/machines/{name}", self._status),
                web.post("/v1/machines/{name}/create", self._create),
                web.post("/v1/machines/{name}/start", self._start),
                web.post("/v1/machines/{name}/stop", self._stop),
                web.post("/v1/machines/{name}/restart", self._restart),
                web.delete("/v1/machines/{name}", self._delete),
                web.get("/v1/machines/{name}/ports", self._ports),
                web.get("/v1/machines/{name}/logs", self._logs),
                web.post("/v1/machines/{name}/exec", self._exec),
            ]
        )
        # Work in progress ends with the agent, not after a grace period: machines are adopted again.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.SockSite(self._runner, listen_private(self._path)).start()

    async def close(self) -> None:
        await self._tasks.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self._path.unlink(missing_ok=True)

    # -- looking -------------------------------------------------------------------------------

    async def _info(self, request: web.Request) -> web.Response:
        count = len(self._agent.names())
        return _json(AgentInfo(version=__version__, api=API_VERSION, pid=os.getpid(), machines=count))

    async def _list(self, request: web.Request) -> web.Response:
        names = self._agent.names()
        return _json(await asyncio.gather(*(self._agent.get(name).status() for name in names)))

    async def _status(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        attendant = self._agent.find(name)
        if attendant is None:
            return _json(MachineStatus(name=name, state=MachineState.ABSENT))
        return _json(await attendant.status())

    async def _ports(self, request: web.Request) -> web.Response:
        return _json(self._agent.get(request.match_info["name"]).ports())

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        return await streams.logs(request, lambda: self._agent.get(name), self._agent.places)

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        wanted = msgspec.json.decode(await request.read(), type=ExecRequest)
        return await streams.execute(request, self._agent.get(request.match_info["name"]), wanted)

    # -- doing ---------------------------------------------------------------------------------

    async def _create(self, request: web.Request) -> web.StreamResponse:
        name = check_name(request.match_info["name"])
        options = await _options(request)
        return await self._stream(request, name, lambda say: self._make(name, options, say))

    async def _start(self, request: web.Request) -> web.StreamResponse:
        name = check_name(request.match_info["name"])
        options = await _options(request)

        async def start(say: Say) -> MachineStatus:
            if self._agent.find(name) is None:
                await self._make(name, options, say)
            return await self._agent.get(name).machine.start(say)

        return await self._stream(request, name, start)

    async def _stop(self, request: web.Request) -> web.StreamResponse:
        machine = self._agent.get(request.match_info["name"]).machine
        wanted = msgspec.json.decode(await request.read() or b"{}", type=StopRequest)
        return await self._stream(request, machine.name, lambda say: machine.stop(say, force=wanted.force))

    async def _restart(self, request: web.Request) -> web.StreamResponse:
        machine = self._agent.get(request.match_info["name"]).machine
        wanted = msgspec.json.decode(await request.read() or b"{}", type=StopRequest)
        return await self._stream(request, machine.name, lambda say: machine.restart(say, force=wanted.force))

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        machine = self._agent.get(request.match_info["name"]).machine

        async def delete(say: Say) -> MachineStatus:
            await machine.delete(say)
            await self._agent.forget(machine.name)
            return MachineStatus(name=machine.name, state=MachineState.ABSENT)

        return await self._stream(request, machine.name, delete)

    async def _make(self, name: str, options: MachineOptions, say: Say) -> MachineStatus:
        say("machine", f"making the machine {name!r}", None)
        return await (await self._agent.make(name, options)).status()

    async def _stream(
        self, request: web.Request, name: str, work: Callable[[Say], Awaitable[MachineStatus]]
    ) -> web.StreamResponse:
        """Run `work` to its end, whether or not the client stays, and stream what it says."""
        said: asyncio.Queue[Message] = asyncio.Queue()

        def say(step: str, message: str, fraction: float | None) -> None:
            said.put_nowait(Progress(step=step, message=message, fraction=fraction))

        async def run() -> None:
            try:
                said.put_nowait(Done(status=await work(say)))
            except ProaError as error:
                log.warning("%s: %s", name, error)
                said.put_nowait(Failed(problem=Problem.of(error)))
            except Exception as error:
                said.put_nowait(Failed(problem=_bug(error)))
                raise

        # A task of its own: a start goes on when the terminal that asked for it is closed.
        self._tasks.start(run(), name=f"{request.method} {request.path}")
        response = web.StreamResponse()
        response.content_type = "application/x-ndjson"
        await response.prepare(request)
        while True:
            message = await said.get()
            await response.write(msgspec.json.encode(message) + b"\n")
            if not isinstance(message, Progress):
                return response


def _bug(error: Exception) -> Problem:
    return Problem(
        code="internal-error",
        message="something went wrong inside Proa",
        why=f"{type(error).__name__}: {error}",
        hint="the details are in the agent's log: proa logs --source agent",
    )


async def _options(request: web.Request) -> MachineOptions:
    return msgspec.json.decode(await request.read() or b"{}", type=MachineOptions)
