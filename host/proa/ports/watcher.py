"""Keeps what is bound in step with what the engine publishes: events, and a full look after each."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from urllib.parse import quote

import msgspec

from proa.model.errors import ProaError
from proa.ports.engine_api import EngineApi
from proa.ports.planner import Binding, Key, wanted
from proa.system.tasks import Tasks

log = logging.getLogger("proa.ports")

_EVENTS = {
    "type": ["container", "network"],
    "event": ["start", "die", "stop", "destroy", "rename", "unpause", "connect", "disconnect"],
}
_EVENTS_PATH = "/events?filters=" + quote(json.dumps(_EVENTS))
RELOOK = 30.0  # seconds after which it looks even without an event: no event is trusted to come


async def _at_once() -> None:
    """There is nothing to wait for."""


class PortWatcher:
    """Looks at the engine's containers and hands the wanted bindings to `apply`."""

    def __init__(
        self,
        engine: EngineApi,
        apply: Callable[[dict[Key, Binding]], Awaitable[None]],
        tasks: Tasks,
        begin: Callable[[], Awaitable[object]] = _at_once,
    ) -> None:
        """It asks nothing before `begin` returns, unless somebody waits for a look (`settled`)."""
        self.containers = 0  # that run, as of the last look
        self._engine = engine
        self._apply = apply
        self._begin = begin
        self._asked = 0  # looks that were asked for
        self._done = 0  # the newest of them that was carried out
        self._wake = asyncio.Event()
        self._looked = asyncio.Condition()
        self._work = [
            tasks.supervise(self._look_again, name="look at ports", most_delay=2.0),
            tasks.supervise(self._listen, name="engine events", most_delay=2.0),
        ]

    async def settled(self) -> None:
        """Return when a look that began after this call was carried out."""
        wanted_look = self._ask()
        async with self._looked:
            await self._looked.wait_for(lambda: self._done >= wanted_look)

    def _ask(self) -> int:
        self._asked += 1
        self._wake.set()
        return self._asked

    async def _look_again(self) -> None:
        told = ""
        while True:
            try:
                async with asyncio.timeout(RELOOK):
                    await self._wake.wait()
            except TimeoutError:
                self._asked += 1
            self._wake.clear()
            number = self._asked
            try:
                await self._look()
            except ProaError as error:
                # The bindings stay as they are: an engine that restarts brings the same ports back.
                if str(error) != told:
                    told = str(error)
                    log.warning("cannot look at published ports: %s", error)
                self._wake.set()
                await asyncio.sleep(0.5)
                continue
            self._done, told = number, ""
            async with self._looked:
                self._looked.notify_all()

    async def _look(self) -> None:
        try:
            listed = await self._engine.get_json("/containers/json")
            want = wanted(listed)
            self.containers = len(listed) if isinstance(listed, list) else 0
        except msgspec.ValidationError as error:
            raise ProaError(
                "engine-silent", "the engine's list of containers is not one", why=str(error)
            ) from error
        await self._apply(want)

    async def _listen(self) -> None:
        await self._begin()
        while True:
            try:
                self._ask()  # what happened while nobody listened
                async for _ in self._engine.lines(_EVENTS_PATH):
                    self._ask()
            except ProaError as error:
                log.info("engine events: %s", error)
            await asyncio.sleep(0.5)

    async def close(self) -> None:
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
