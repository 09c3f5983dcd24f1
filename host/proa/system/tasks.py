"""The one door for asyncio tasks: each is named, referenced, and its failure is logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
log = logging.getLogger("proa.tasks")

# A supervised task that ran this long (seconds) was well: its next failure starts with the first delay again.
WELL_AFTER = 30.0


class Tasks:
    """A group of tasks that ends together."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run `coro` as a task of this group. Raises RuntimeError once the group is closed."""
        if self._closed:
            coro.close()
            raise RuntimeError(f"the tasks of {self._name} have ended")
        task = asyncio.create_task(coro, name=f"{self._name}: {name}")  # noqa: TID251  (this is the door)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def supervise(
        self,
        work: Callable[[], Awaitable[None]],
        *,
        name: str,
        first_delay: float = 0.2,
        most_delay: float = 10.0,
    ) -> asyncio.Task[None]:
        """Run `work` again whenever it fails, after a delay that doubles; a return ends it."""
        return self.start(self._again(work, name, first_delay, most_delay), name=name)

    async def _again(
        self, work: Callable[[], Awaitable[None]], name: str, first_delay: float, most_delay: float
    ) -> None:
        delay = first_delay
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await work()
            except asyncio.CancelledError:
                raise
            except Exception:  # a supervisor outlives whatever it supervises
                delay = first_delay if loop.time() - began > WELL_AFTER else delay
                log.exception("%s: %s failed, again in %.1f s", self._name, name, delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, most_delay)
            else:
                return

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task %s failed", task.get_name(), exc_info=error)

    async def close(self) -> None:
        """Cancel all and wait for their end. Safe to call twice and from one of the tasks."""
        self._closed = True
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
