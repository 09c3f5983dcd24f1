"""How the API answers: JSON, a problem, and long work that says how far it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from proa.model.api import Done, Failed, Message, Progress
from proa.model.errors import ProaError
from proa.model.problem import Problem
from proa.system.tasks import Tasks

log = logging.getLogger("proa.agent")

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Say = Callable[[str, str, float | None], None]


def as_json(value: object, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", charset="utf-8"
    )


async def body_of(request: web.Request, kind: type[T]) -> T:
    """The request's body; an empty one is the type's defaults. Raises msgspec.DecodeError."""
    return msgspec.json.decode(await request.read() or b"{}", type=kind)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One place where a ProaError becomes an answer."""
    try:
        return await handler(request)
    except ProaError as error:
        missing = error.code == "machine-unknown"
        return as_json(Problem.of(error), 400 if error.usage else 404 if missing else 500)
    except msgspec.DecodeError as error:
        problem = Problem(
            code="bad-request", message="the request cannot be read", why=str(error), usage=True
        )
        return as_json(problem, 400)


class LongWork:
    """Work that outlives the request that asked for it; what it says is streamed, one Message a line."""

    def __init__(self) -> None:
        self._tasks = Tasks("api")

    async def stream(
        self, request: web.Request, name: str, work: Callable[[Say], Awaitable[object]]
    ) -> web.StreamResponse:
        """Run `work` to its end, whether or not the client stays; stream what it says and what it returns."""
        said: asyncio.Queue[Message] = asyncio.Queue()

        def say(step: str, message: str, fraction: float | None) -> None:
            said.put_nowait(Progress(step=step, message=message, fraction=fraction))

        async def run() -> None:
            try:
                said.put_nowait(Done(result=msgspec.Raw(msgspec.json.encode(await work(say)))))
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

    async def close(self) -> None:
        await self._tasks.close()


def _bug(error: Exception) -> Problem:
    return Problem(
        code="internal-error",
        message="something went wrong inside Proa",
        why=f"{type(error).__name__}: {error}",
        hint="the details are in the agent's log: proa logs --source agent",
    )
