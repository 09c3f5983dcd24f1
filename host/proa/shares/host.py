"""The agent's side of the share server: its process for one machine, and its stream to the guest.

The server ends with the machine's session and leaves what the guest counts on; the next one, after a
wake or after this agent's death, goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proa.link.pool import LinkPool
from proa.link.stream import LinkStream
from proa.model.errors import ProaError
from proa.system import handover
from proa.system.processes import kill, wait_end

log = logging.getLogger("proa.shares")

STREAM = "share"  # the guest's target
ORDER_TIMEOUT = 30.0  # seconds; the server before may still be writing down its state
END_TIMEOUT = 10.0
FIRST_DELAY, MOST_DELAY = 0.1, 2.0  # seconds between tries while the guest is not there
MOST_LINE = 64 << 10


@dataclass(frozen=True)
class Shared:
    """What the server is told: folders (path, writable), what is never shared, and what is set."""

    roots: tuple[tuple[str, bool], ...]
    never: tuple[str, ...]
    owner: str
    locks: str


class ShareHost:
    """Keeps one machine's share server running and connected, for as long as `keep` runs."""

    def __init__(self, name: str, state: Path, server_log: Path, shared: Callable[[], Shared]) -> None:
        self._name = name
        self._state = state
        self._log = server_log
        self._shared = shared
        self._process: _Process | None = None
        self._fresh = True
        self._told: Shared | None = None
        self._left: dict[int, int] = {}  # descriptors of files that the server before had open
        self.mounted = asyncio.Event()  # the guest has a stream
        self._keeps = True  # what the guest has open stays so when the server ends
        self.absent = False  # the guest knows no shares

    def begin(self, *, fresh: bool) -> None:
        """A session begins; `fresh` where its guest was just booted, and knows no file yet."""
        self._fresh, self.absent, self._keeps = fresh, False, True

    def forget(self) -> None:
        """The session ends, and no guest sleeps that would go on with what it had open, or locked."""
        self._keeps = False
        self._close_left()

    def _close_left(self) -> None:
        left, self._left = self._left, {}
        for handle in left.values():
            os.close(handle)

    async def keep(self, pool: LinkPool) -> None:
        """Until cancelled, or until the guest turns out to know no shares. Raises ProaError, OSError."""
        try:
            while not self.absent:
                self._process = await self._start(fresh=self._fresh)
                self._fresh = False
                try:
                    await self._connect(self._process, pool)
                finally:
                    self.mounted.clear()
                    process, self._process = self._process, None
                    self._left = await process.close()
                    if not self._keeps:
                        self._close_left()
                if not self.absent:
                    log.info("%s: the share server has ended, starting another", self._name)
        finally:
            self.mounted.clear()

    async def ready(self, timeout: float) -> None:
        """Return when containers can have folders. Raises ProaError."""
        try:
            async with asyncio.timeout(timeout):
                await self.mounted.wait()
        except TimeoutError as error:
            raise ProaError(
                "shares-silent",
                "this computer's folders are not there in the machine",
                why="the guest is of an earlier Proa" if self.absent else "the share server did not come up",
                hint=f"boot it anew: proa stop --cold {self._name}, then proa start {self._name}",
                layer="guest-agent",
            ) from error

    async def refresh(self) -> None:
        """Tell the server what is shared by now, if that is news to it. Raises ProaError."""
        process = self._process
        if process is None or self._shared() == self._told:
            return
        answer = await process.order(self._config(fresh=False))
        if answer.get("ending"):  # it has not the rights for that; the next one, which `keep` starts, has
            self.mounted.clear()
            await self.ready(ORDER_TIMEOUT)

    async def status(self) -> dict[str, Any]:
        """Counts of the server; empty where none runs. Raises ProaError."""
        return await self._process.order({"op": "status"}) if self._process is not None else {}

    def _config(self, *, fresh: bool) -> dict[str, Any]:
        shared = self._told = self._shared()
        return {
            "op": "config",
            "roots": shared.roots,
            "never": shared.never,
            "owner": shared.owner,
            "locks": shared.locks,
            "state": str(self._state),
            "fresh": fresh,
        }

    async def _start(self, *, fresh: bool) -> _Process:
        left, self._left = self._left, {}
        process = _Process(self._log)
        try:
            order = {**self._config(fresh=fresh), "left": [] if fresh else list(left)}
            await process.order(order, [] if fresh else list(left.values()))
        except BaseException:
            await process.close()
            raise
        finally:
            for handle in left.values():
                os.close(handle)
        return process

    async def _connect(self, process: _Process, pool: LinkPool) -> None:
        """Give the server one stream after another, until the server has ended."""
        delay = FIRST_DELAY
        while not process.gone:
            try:
                stream = await pool.open(STREAM)
            except ProaError as error:
                if error.code == "link-refused" and "no target" in error.why:
                    log.warning("%s: %s", self._name, error)
                    self.absent = True
                    return
                await asyncio.sleep(delay)
                delay = min(delay * 2, MOST_DELAY)
                continue
            delay = FIRST_DELAY
            try:
                process.stream_ended.clear()
                await process.give(stream)
            except ProaError:
                if process.gone:
                    return
                raise
            self.mounted.set()
            await process.stream_ended.wait()
            self.mounted.clear()


class _Process:
    """The server's process and the socket to it."""

    def __init__(self, server_log: Path) -> None:
        """Raises ProaError, OSError."""
        self._ours, self._identity = handover.start([sys.executable, "-m", "proa.shares"], log=server_log)
        self.stream_ended = asyncio.Event()
        self.gone = False
        self._left: dict[int, int] = {}
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._orders = asyncio.Lock()
        self._reading = asyncio.ensure_future(self._read())  # noqa: TID251  (close ends it)

    async def order(self, content: dict[str, Any], handles: Sequence[int] = ()) -> dict[str, Any]:
        """Raises ProaError `share-server-silent`."""
        async with self._orders:
            try:
                async with asyncio.timeout(ORDER_TIMEOUT):
                    data = json.dumps(content).encode() + b"\n"
                    sent = 0
                    if handles:
                        sent = handover.send(self._ours, data, handles)
                    await asyncio.get_running_loop().sock_sendall(self._ours, data[sent:])
                    answer = await self._answers.get()
            except (OSError, TimeoutError) as error:
                raise _silent() from error
        if self.gone:
            raise _silent()
        return answer

    async def give(self, stream: LinkStream) -> None:
        """Have it serve the guest over this stream, which is the server's from here on. Raises ProaError."""
        given = await stream.hand_over()
        with given:
            more, handles = handover.offer(given, self._identity.pid)
            await self.order({"op": "stream", **more}, handles)

    async def _read(self) -> None:
        buffer = b""
        try:
            while True:
                data, handles = await handover.next_received(self._ours, MOST_LINE)
                if not data:
                    break
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    message = json.loads(line)
                    if message.get("event") == "ended":
                        self.stream_ended.set()
                    elif message.get("event") == "left":
                        self._left = dict(zip(message["handles"], handles, strict=True))
                    else:
                        self._answers.put_nowait(message)
        except (OSError, ValueError) as error:
            log.warning("the share server is not understood: %s", error)
        self.gone = True
        self.stream_ended.set()
        self._answers.put_nowait({})

    async def close(self) -> dict[int, int]:
        """Have it write down its state and end; by force where it does not.

        Gives the descriptors of what it had open and no other can open, by their numbers: the caller's.
        """
        try:
            async with asyncio.timeout(END_TIMEOUT):
                with contextlib.suppress(OSError):  # it has ended
                    self._ours.shutdown(socket.SHUT_WR)
                await self._reading
                await wait_end(self._identity)
        except TimeoutError:
            log.error("the share server does not end, ending it by force")
            kill(self._identity, force=True)
        finally:
            self._reading.cancel()
            self._ours.close()
        return self._left


def _silent() -> ProaError:
    return ProaError(
        "share-server-silent",
        "the server of this computer's folders does not answer",
        hint="proa logs --source agent tells why",
        layer="agent",
    )
