"""Diagnosis: the agent's half of `proa doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from proa.agent.answers import as_json
from proa.agent.doctor.checks import examine
from proa.model.names import check_name

if TYPE_CHECKING:
    from proa.agent.agent import Agent


class DiagnosisRoutes:
    """What is looked at for a person who wonders what is wrong."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def table(self) -> list[web.RouteDef]:
        return [web.get("/v1/machines/{name}/doctor", self._doctor)]

    async def _doctor(self, request: web.Request) -> web.Response:
        return as_json(await examine(self._agent, check_name(request.match_info["name"])))
