"""The control stream: what the guest says of itself (hostile input), and the few orders it takes."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from proa.link.pool import LinkPool
from proa.model.errors import ProaError
from proa.system.tasks import Tasks
from proa_guest import wire

log = logging.getLogger("proa.link")

REDIAL = 0.25  # seconds between attempts to open the stream; the pool itself backs off
REOPEN_TIMEOUT = 3.0  # seconds that an order waits for a stream that was just lost, or is not yet open
ORDER_TIMEOUT = 15.0
SLEEPS_FROM = 2  # the first version of a guest agent that takes the orders of a save and a restore
MOST_WORDS = 2000  # characters of a message that are kept


class ServiceStatus(msgspec.Struct, frozen=True):
    state: str = "starting"  # starting, ready, silent (it was ready), backoff, failed, stopped
    restarts: int = 0  # in all
    failures: int = 0  # in a row
    message: str = ""
    ended: str = ""  # how it last ended
    seconds: float = 0.0  # from its start to its first answer, the last time


class DiskStatus(msgspec.Struct, frozen=True):
    state: str = "starting"  # starting, ready, full, damaged, missing
    message: str = ""
    size: int = 0  # bytes
    free: int = 0


class NetworkStatus(msgspec.Struct, frozen=True):
    state: str = "starting"
    message: str = ""


class EngineStatus(msgspec.Struct, frozen=True):
    state: str = "starting"  # starting, ready, silent


class MemoryStatus(msgspec.Struct, frozen=True):
    kills: int = 0  # processes that the kernel ended because the guest was out of memory
    victim: str = ""  # the last of them
    at: float = 0.0  # when, as `uptime`


class GuestStatus(msgspec.Struct, frozen=True):
    """What the guest's control stream tells; fields that this host does not know are passed over."""

    agent: str = ""
    uptime: float = 0.0
    services: dict[str, ServiceStatus] = {}
    disk: DiskStatus = DiskStatus()
    network: NetworkStatus = NetworkStatus()
    engine: EngineStatus = EngineStatus()
    memory: MemoryStatus = MemoryStatus()


def clock_off(before: float, guest: float, after: float) -> float:
    """Seconds by which a clock read between `before` and `after` is certainly wrong; ahead is positive."""
    return min(guest - before, 0.0) or max(guest - after, 0.0)


class Control:
    """Holds a control stream open for as long as the pool lives."""

    def __init__(self, pool: LinkPool, tasks: Tasks) -> None:
        self.latest: GuestStatus | None = None
        self.heard = 0.0  # when that was, on the monotonic clock
        self.clock_off = 0.0  # seconds that the guest's clock was certainly ahead of ours (behind: negative)
        self._pool = pool
        self._changed = asyncio.Condition()
        self._line: _ControlLine | None = None
        self._opened = asyncio.Event()  # set while there is a line
        self._numbers = itertools.count(1)
        self._tasks = tasks
        self._task = tasks.start(self._hold(), name="control stream")

    async def _hold(self) -> None:
        while True:
            try:
                stream = await self._pool.open("control")
            except ProaError as error:
                log.debug("control stream: %s", error)
                await asyncio.sleep(REDIAL)
                continue
            self._line = line = _ControlLine(self._heard)
            stream.attach(line)
            self._opened.set()
            await line.closed
            self._opened.clear()
            self._line = None
            if line.broken:
                log.warning("the guest's control stream was dropped: %s", line.broken)
                await asyncio.sleep(REDIAL)

    def _heard(self, content: dict[str, Any]) -> None:
        self.latest, self.heard = msgspec.convert(content, GuestStatus, strict=True), time.monotonic()
        self._tasks.start(self._tell(), name="status changed")

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def wait_until(self, condition: Callable[[GuestStatus], bool], timeout: float) -> GuestStatus:
        """The first status for which `condition` holds. Raises TimeoutError."""
        async with asyncio.timeout(timeout), self._changed:
            while self.latest is None or not condition(self.latest):
                await self._changed.wait()
            return self.latest

    async def wait_open(self, timeout: float) -> None:
        """Return when the guest takes orders, which is before its first status. Raises TimeoutError."""
        await self._current_line(timeout)

    @property
    def can_sleep(self) -> bool:
        """Whether this guest's agent knows the orders of proa_guest.sleep; False before its first word."""
        version = self.latest.agent if self.latest else ""
        return version.isascii() and version.isdigit() and int(version) >= SLEEPS_FROM

    async def order(self, content: dict[str, object], timeout: float = ORDER_TIMEOUT) -> dict[str, Any]:
        """One order (`op`) and its answer. Raises ProaError `link-down`, `guest-refused`."""
        try:
            line = await self._current_line(min(timeout, REOPEN_TIMEOUT))
        except TimeoutError as error:
            raise ProaError("link-down", "the guest does not answer", layer="guest-agent") from error
        try:
            async with asyncio.timeout(timeout):
                answer = await line.ask({"id": next(self._numbers), **content})
        except TimeoutError as error:
            raise ProaError(
                "link-down",
                "the guest does not answer",
                why=f"no answer within {timeout:.0f} s",
                layer="guest-agent",
            ) from error
        if "failed" in answer:
            raise ProaError(
                "guest-refused",
                f"the guest could not carry out {content.get('op')}",
                why=str(answer["failed"])[:MOST_WORDS],
                layer="guest-agent",
            )
        return answer

    async def _current_line(self, timeout: float) -> _ControlLine:
        """The line, once there is one; after a take-over it may be a while. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while (line := self._line) is None:
                await self._opened.wait()
            return line

    async def answers(self, timeout: float) -> bool:
        """True if the guest agent answers within `timeout` seconds; `clock_off` is of that answer then."""
        before = time.time()
        try:
            async with asyncio.timeout(timeout):
                told = (await self.order({"op": "status"})).get("time")
        except (ProaError, TimeoutError):
            return False
        self.clock_off = clock_off(before, told, time.time()) if isinstance(told, (int, float)) else 0.0
        return True

    async def log(self, name: str, lines: int) -> tuple[str, ...]:
        """The last lines of `agent`, `containerd` or `dockerd` in the guest. Raises ProaError."""
        answer = await self.order({"op": "log", "name": name, "lines": lines})
        found = answer.get("lines")
        if not isinstance(found, list):
            return ()
        return tuple(str(line)[:MOST_WORDS] for line in found[-lines:])

    async def poweroff(self) -> None:
        """Ask the guest to end in order; it answers at once. Raises ProaError."""
        await self.order({"op": "poweroff"})

    async def set_time(self, now: float) -> None:
        """Set the guest's clock (seconds since 1970). Raises ProaError."""
        await self.order({"op": "set-time", "time": now})

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._line is not None:
            self._line.abort()


class _ControlLine(asyncio.Protocol):
    """One control stream while it lives."""

    def __init__(self, heard: Callable[[dict[str, Any]], None]) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.broken = ""
        self._heard = heard
        self._messages = wire.Messages()
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for content in self._messages.feed(data):
                self._take(content)
        except (wire.WireError, msgspec.ValidationError) as error:
            self.broken = str(error)
            self.abort()

    def _take(self, content: dict[str, Any]) -> None:
        if content.get("event") == "status":
            self._heard(content)
            return
        number = content.get("id")
        asked = self._asked.pop(number, None) if isinstance(number, int) else None
        if asked is not None and not asked.done():
            asked.set_result(content)

    async def ask(self, content: dict[str, object]) -> dict[str, Any]:
        number = content["id"]
        assert isinstance(number, int) and self._transport is not None
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._transport.write(wire.message(content))
        try:
            return await answer
        finally:
            self._asked.pop(number, None)

    def connection_lost(self, error: Exception | None) -> None:
        # First, so that who asks again at once finds that this line is gone.
        if not self.closed.done():
            self.closed.set_result(None)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ProaError("link-down", "the guest ended the control stream"))

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
