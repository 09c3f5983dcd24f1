"""Keeps a few proved streams parked, so that a new stream waits for no handshake."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping

from proa.link.loopback import Transport
from proa.link.stream import LinkStream, gone
from proa.model.errors import ProaError
from proa.system.tasks import Tasks

log = logging.getLogger("proa.link")

PARKED = 4
MOST_DIALS = 16  # handshakes under way at once: the guest bounds strangers, and emulation is slow
# Seconds of a handshake after which another is begun beside it. QEMU's user network asks once for a guest's
# card, and drops what waits for the answer after a second; of wakes of a busy emulated guest one in a hundred
# took longer, and then waited for TCP to send it again.
STUCK = 1.0
HANDSHAKE_TIMEOUT = 5.0
OPEN_TIMEOUT = 30.0  # seconds for a stream to be in use; the guest gives its targets 10
# Targets that may be asked for twice, where a handshake is stuck and another is begun.
_AHEAD = ("engine", "control", "tcp:")
FIRST_DELAY, MOST_DELAY = 0.1, 2.0  # seconds between dials while the guest is not there


class LinkPool:
    """All streams to one guest, from one secret."""

    def __init__(self, transport: Transport, secret: bytes, tasks: Tasks, parked: int = PARKED) -> None:
        self._transport = transport
        self._secret = secret
        self._want = parked
        self._again = True
        self._parked: deque[LinkStream] = deque()
        self._dials = asyncio.Semaphore(MOST_DIALS)
        self._wake = asyncio.Event()
        self._wake.set()
        self._closed = False
        self._keeper = tasks.start(self._keep_parked(), name="parked streams")

    def park(self, count: int = PARKED, *, again: bool = True) -> None:
        """Keep that many streams parked from now on; `again`: with another for each that is used."""
        self._want, self._again = count, again
        self._wake.set()

    def renew(self, secret: bytes) -> None:
        """Prove another secret from now on; streams that are in use stay."""
        self._secret = secret
        self._drop_parked()

    def _drop_parked(self) -> None:
        while self._parked:
            self._parked.pop().abort()
        self._wake.set()

    async def open(
        self,
        target: str,
        *,
        early: bytes = b"",
        extra: Mapping[str, object] | None = None,
        timeout: float = OPEN_TIMEOUT,
    ) -> LinkStream:
        """A stream in use to `target`; `early` is sent along.

        Raises ProaError `link-down` (nobody answers), `link-refused` (the guest's reason), or
        `link-not-proved` (whoever answers does not hold the secret).
        """
        try:
            async with asyncio.timeout(timeout):
                while (stream := self._take_parked()) is not None:
                    try:
                        return await self._use(stream, target, early, extra)
                    except ProaError as error:
                        if error.code != "link-down":
                            raise
                        # A parked stream may have died unseen (the guest was restarted, say): the next one.
                ahead = target if target.startswith(_AHEAD) and not extra else ""
                return await self._use(await self._dial_until_proved(ahead), target, early, extra)
        except TimeoutError as error:
            failure = gone()
            failure.why = f"it did not open {target} within {timeout:.0f} s"
            raise failure from error

    async def _use(
        self, stream: LinkStream, target: str, early: bytes, extra: Mapping[str, object] | None
    ) -> LinkStream:
        try:
            await stream.use(target, early, dict(extra or {}))
        except BaseException:
            stream.abort()
            raise
        return stream

    def _take_parked(self) -> LinkStream | None:
        while self._parked:
            stream = self._parked.popleft()
            self._wake.set()
            if stream.alive:
                self._want -= not self._again
                return stream
            stream.abort()
        return None

    async def _dial_until_proved(self, target: str) -> LinkStream:
        """Dial again where a handshake got stuck: QEMU's user network may lose one of many at once."""
        while True:
            try:
                return await self._dial(target)
            except ProaError as error:
                if not isinstance(error.__cause__, TimeoutError):
                    raise

    async def _dial(self, target: str = "") -> LinkStream:
        """A new proved stream, perhaps for a `target`. Raises ProaError `link-down`, `link-not-proved`."""
        async with self._dials:
            if self._closed:
                raise gone()
            try:
                async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                    return await self._first_proved(target)
            except (OSError, TimeoutError) as error:
                failure = gone()
                failure.why = str(error) or "it did not prove itself in time"
                raise failure from error

    async def _first_proved(self, target: str) -> LinkStream:
        """A handshake, or a second one where the first is stuck. Raises OSError, ProaError."""
        attempts = [asyncio.ensure_future(self._prove(target))]  # noqa: TID251  (they end here, whatever happens)
        try:
            done, _ = await asyncio.wait(attempts, timeout=STUCK)
            if not done:
                attempts.append(asyncio.ensure_future(self._prove(target)))  # noqa: TID251
                done, _ = await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
            return attempts.pop(attempts.index(done.pop())).result()
        finally:
            for attempt in attempts:
                if not attempt.cancel() and attempt.exception() is None:
                    attempt.result().abort()  # both, at the same moment

    async def _prove(self, target: str) -> LinkStream:
        stream = await self._transport.connect(lambda: LinkStream(self._secret, target))
        try:
            await stream.proved
        except BaseException:
            stream.abort()
            raise
        return stream

    async def _keep_parked(self) -> None:
        """Dial until enough are parked; while the guest is not there, again after a growing delay.

        QEMU's user network accepts before the guest listens and then closes: that is «not there yet».
        """
        delay = FIRST_DELAY
        while True:
            await self._wake.wait()
            self._wake.clear()
            while len(self._parked) < self._want:
                try:
                    stream = await self._dial()
                except ProaError as error:
                    if error.code == "link-not-proved":
                        log.warning("%s", error)
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, MOST_DELAY)
                    continue
                delay = FIRST_DELAY
                stream.closed.add_done_callback(lambda _: self._wake.set())
                self._parked.append(stream)
                self._drop_dead()
            self._drop_dead()

    def _drop_dead(self) -> None:
        self._parked = deque(stream for stream in self._parked if stream.alive)
        if len(self._parked) < self._want:
            self._wake.set()

    async def close(self) -> None:
        """End the parked streams; those in use belong to others."""
        self._closed = True
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        self._drop_parked()
