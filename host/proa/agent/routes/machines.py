"""Machines: looking at them, and what is done to them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from proa.agent import calls, contexts, streams
from proa.agent.answers import LongWork, Say, as_json, body_of
from proa.agent.logs import logs
from proa.model.api import DockerRequest, ExecRequest, StopRequest
from proa.model.machine import MachineOptions, MachineState, MachineStatus
from proa.model.names import check_name
from proa.model.showing import status_lines

if TYPE_CHECKING:
    from proa.agent.agent import Agent

_MACHINE = "/v1/machines/{name}"


class MachineRoutes:
    """Everything below /v1/machines that is about a machine as a whole."""

    def __init__(self, agent: Agent, work: LongWork) -> None:
        self._agent = agent
        self._work = work

    def table(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/machines", self._list),
            web.get(_MACHINE, self._status),
            web.post(f"{_MACHINE}/create", self._create),
            web.post(f"{_MACHINE}/start", self._start),
            web.post(f"{_MACHINE}/stop", self._stop),
            web.post(f"{_MACHINE}/restart", self._restart),
            web.post(f"{_MACHINE}/suspend", self._suspend),
            web.delete(_MACHINE, self._delete),
            web.get(f"{_MACHINE}/ports", self._ports),
            web.get(f"{_MACHINE}/shares", self._shares),
            web.get(f"{_MACHINE}/logs", self._logs),
            web.post(f"{_MACHINE}/exec", self._exec),
            web.post(f"{_MACHINE}/docker", self._docker),
        ]

    # -- looking -------------------------------------------------------------------------------

    async def _list(self, request: web.Request) -> web.Response:
        names = self._agent.names()
        return as_json(await asyncio.gather(*(self._agent.get(name).status() for name in names)))

    async def _status(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        attendant = self._agent.find(name)
        absent = MachineStatus(name=name, state=MachineState.ABSENT)
        status = absent if attendant is None else await attendant.status()
        if request.headers.get("Accept") == "text/plain":
            return web.Response(text="\n".join(status_lines(status)))
        return as_json(status)

    async def _ports(self, request: web.Request) -> web.Response:
        return as_json(self._agent.get(request.match_info["name"]).ports())

    async def _shares(self, request: web.Request) -> web.Response:
        return as_json(await self._agent.get(request.match_info["name"]).shares_status())

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        return await logs(request, lambda: self._agent.get(name), self._agent.places)

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        wanted = await body_of(request, ExecRequest)
        return await streams.execute(request, self._agent.get(request.match_info["name"]), wanted)

    async def _docker(self, request: web.Request) -> web.StreamResponse:
        wanted = await body_of(request, DockerRequest)
        return await calls.docker(request, self._agent.get(request.match_info["name"]), wanted)

    # -- doing ---------------------------------------------------------------------------------

    async def _create(self, request: web.Request) -> web.StreamResponse:
        name = check_name(request.match_info["name"])
        options = await body_of(request, MachineOptions)
        docker = contexts.choice_of(request)

        async def create(say: Say) -> MachineStatus:
            status = await self._make(name, options, say)
            await contexts.publish(docker, name, self._socket(name), say)
            return status

        return await self._work.stream(request, name, create)

    async def _start(self, request: web.Request) -> web.StreamResponse:
        name = check_name(request.match_info["name"])
        options = await body_of(request, MachineOptions)
        docker = contexts.choice_of(request)

        async def start(say: Say) -> MachineStatus:
            attendant = await self._agent.ensure(name, options, say)
            status = await attendant.machine.start(say)
            await contexts.publish(docker, name, self._socket(name), say)
            return status

        return await self._work.stream(request, name, start)

    async def _stop(self, request: web.Request) -> web.StreamResponse:
        machine = self._agent.get(request.match_info["name"]).machine
        wanted = await body_of(request, StopRequest)
        return await self._work.stream(
            request, machine.name, lambda say: machine.stop(say, cold=wanted.cold, force=wanted.force)
        )

    async def _suspend(self, request: web.Request) -> web.StreamResponse:
        machine = self._agent.get(request.match_info["name"]).machine
        return await self._work.stream(request, machine.name, machine.suspend)

    async def _restart(self, request: web.Request) -> web.StreamResponse:
        machine = self._agent.get(request.match_info["name"]).machine
        wanted = await body_of(request, StopRequest)
        return await self._work.stream(
            request, machine.name, lambda say: machine.restart(say, cold=wanted.cold, force=wanted.force)
        )

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        machine = self._agent.get(request.match_info["name"]).machine
        docker = contexts.choice_of(request)

        async def delete(say: Say) -> MachineStatus:
            socket = self._socket(machine.name)
            await self._agent.delete(machine.name, say)
            await contexts.withdraw(docker, machine.name, socket, say)
            return MachineStatus(name=machine.name, state=MachineState.ABSENT)

        return await self._work.stream(request, machine.name, delete)

    def _socket(self, name: str) -> Path:
        return self._agent.places.machine(name).engine_socket

    async def _make(self, name: str, options: MachineOptions, say: Say) -> MachineStatus:
        say("machine", f"making the machine {name!r}", None)
        return await (await self._agent.make(name, options)).status()
