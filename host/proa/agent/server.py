"""The agent's HTTP API on its private socket (proa.model.api names routes and types)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from proa import API_VERSION, __version__
from proa.agent.answers import LongWork, as_json, problems
from proa.agent.routes.config import ConfigRoutes
from proa.agent.routes.diagnosis import DiagnosisRoutes
from proa.agent.routes.events import EventRoutes
from proa.agent.routes.images import ImageRoutes
from proa.agent.routes.machines import MachineRoutes
from proa.model.api import VERSION_HEADER, AgentInfo
from proa.system.activation import Listeners
from proa.system.memory import own_memory

if TYPE_CHECKING:
    from proa.agent.agent import Agent

MOST_BODY = 4 << 20  # bytes; a docker command's words and environment are the most (Linux takes 2 MiB)


class ApiServer:
    """Answers the CLI and the desktop."""

    def __init__(self, agent: Agent, path: Path, listeners: Listeners) -> None:
        self._agent = agent
        self._path = path
        self._listeners = listeners
        self._work = LongWork()
        self._began = time.monotonic()
        self._runner: web.AppRunner | None = None

    async def open(self) -> None:
        app = web.Application(middlewares=[problems], client_max_size=MOST_BODY)
        app.on_response_prepare.append(_sign)
        app.add_routes([web.get("/v1/agent", self._info)])
        app.add_routes(ImageRoutes(self._agent, self._work).table())
        app.add_routes(MachineRoutes(self._agent, self._work).table())
        app.add_routes(DiagnosisRoutes(self._agent).table())
        app.add_routes(EventRoutes(self._agent.journal).table())
        app.add_routes(ConfigRoutes(self._agent).table())
        # Work in progress ends with the agent, not after a grace period: machines are adopted again.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.SockSite(self._runner, self._listeners.at(self._path)).start()

    async def close(self) -> None:
        await self._work.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self._listeners.remove(self._path)

    async def _info(self, request: web.Request) -> web.Response:
        count = len(self._agent.names())
        info = AgentInfo(
            version=__version__,
            api=API_VERSION,
            pid=os.getpid(),
            machines=count,
            uptime=round(time.monotonic() - self._began, 1),
            memory=own_memory(),
        )
        return as_json(info)


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    response.headers[VERSION_HEADER] = f"{__version__} {API_VERSION}"
