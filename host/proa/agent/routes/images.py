"""Guest images: looking at them, and what is done with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from proa.agent.answers import LongWork, as_json, body_of
from proa.agent.image_care import ImageCare
from proa.model.image import BuildRequest, FetchRequest, ImportRequest

if TYPE_CHECKING:
    from proa.agent.agent import Agent

_IMAGES = "/v1/images"


class ImageRoutes:
    """Everything below /v1/images."""

    def __init__(self, agent: Agent, work: LongWork) -> None:
        self._care = ImageCare(agent.images, agent.store, agent.places)
        self._work = work

    def table(self) -> list[web.RouteDef]:
        return [
            web.get(_IMAGES, self._list),
            web.post(f"{_IMAGES}/build", self._build),
            web.post(f"{_IMAGES}/fetch", self._fetch),
            web.post(f"{_IMAGES}/import", self._import),
            web.post(f"{_IMAGES}/verify", self._verify),
            web.post(f"{_IMAGES}/prune", self._prune),
            web.delete(f"{_IMAGES}/{{id}}", self._remove),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        return as_json(await self._care.listed())

    async def _build(self, request: web.Request) -> web.StreamResponse:
        wanted = await body_of(request, BuildRequest)
        return await self._work.stream(request, "images", lambda say: self._care.build(wanted.archive, say))

    async def _fetch(self, request: web.Request) -> web.StreamResponse:
        wanted = await body_of(request, FetchRequest)
        return await self._work.stream(
            request, "images", lambda say: self._care.fetch(wanted.url, wanted.allow_older, say)
        )

    async def _import(self, request: web.Request) -> web.StreamResponse:
        wanted = await body_of(request, ImportRequest)
        return await self._work.stream(
            request, "images", lambda say: self._care.import_image(wanted.path, wanted.allow_older, say)
        )

    async def _verify(self, request: web.Request) -> web.StreamResponse:
        identity = request.query.get("id", "")
        return await self._work.stream(request, "images", lambda say: self._care.verify(identity, say))

    async def _prune(self, request: web.Request) -> web.StreamResponse:
        return await self._work.stream(request, "images", self._care.prune)

    async def _remove(self, request: web.Request) -> web.StreamResponse:
        identity = request.match_info["id"]
        return await self._work.stream(request, "images", lambda say: self._care.remove(identity))
