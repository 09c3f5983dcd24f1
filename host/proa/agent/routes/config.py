"""Settings of a machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from proa.agent.answers import as_json, body_of
from proa.model.api import ConfigChange

if TYPE_CHECKING:
    from proa.agent.agent import Agent

_CONFIG = "/v1/machines/{name}/config"


class ConfigRoutes:
    """Everything below a machine's `config`."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def table(self) -> list[web.RouteDef]:
        return [
            web.get(_CONFIG, self._list),
            web.get(_CONFIG + "/{key}", self._get),
            web.post(_CONFIG, self._change),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        reveal = request.query.get("reveal") == "1"
        return as_json(self._agent.get(request.match_info["name"]).config.values(reveal=reveal))

    async def _get(self, request: web.Request) -> web.Response:
        config = self._agent.get(request.match_info["name"]).config
        return as_json(config.value(request.match_info["key"]))

    async def _change(self, request: web.Request) -> web.Response:
        attendant = self._agent.get(request.match_info["name"])
        changed = await attendant.config.change((await body_of(request, ConfigChange)).changes)
        await attendant.shares.refresh()
        return as_json(changed)
