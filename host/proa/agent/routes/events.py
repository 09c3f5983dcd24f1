"""Events: the newest, and with `follow=1` those to come."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from proa.agent.logs import line_count
from proa.model.names import check_name

if TYPE_CHECKING:
    from proa.agent.journal import Journal


class EventRoutes:
    """Everything below /v1/events."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def table(self) -> list[web.RouteDef]:
        return [web.get("/v1/events", self._events)]

    async def _events(self, request: web.Request) -> web.StreamResponse:
        count = line_count(request.query.get("lines", "100"))
        machine = request.query.get("machine", "")
        if machine:
            check_name(machine)
        response = web.StreamResponse()
        response.content_type = "application/x-ndjson"
        await response.prepare(request)
        if request.query.get("follow") != "1":
            for event in self._journal.last(count, machine):
                await response.write(msgspec.json.encode(event) + b"\n")
            return response
        async with contextlib.aclosing(self._journal.follow(count, machine)) as events:
            async for event in events:
                await response.write(msgspec.json.encode(event) + b"\n")
        return response
