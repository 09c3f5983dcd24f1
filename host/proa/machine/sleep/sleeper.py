"""Carries out what `order` says: a running session into a memory image, and an image into a session."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from proa.drivers.base import BootSpec, Driver, Hypervisor, MemoryImages
from proa.link.loopback import Loopback
from proa.link.pool import LinkPool
from proa.machine.session import Session
from proa.machine.sleep.images import Header, ImageFolder, Kind, SavedPort
from proa.machine.sleep.order import RESTORE, SAVE, Step, after_failed_restore, after_failed_save
from proa.model.errors import ProaError
from proa.model.sizes import MIB
from proa.system.files import read_bytes, write_atomic
from proa.system.memory import free_disk
from proa.system.paths import MachinePaths
from proa.system.tasks import Tasks
from proa_guest import wire

log = logging.getLogger("proa.machine")

MARGIN = 64 * MIB  # bytes of disk that a save leaves free
SYNC_TIMEOUT = 120.0  # seconds; a slow disk may have much to write
WAKE_TIMEOUT = 60.0
BRING_BACK_TIMEOUT = 300.0  # seconds for all containers of a machine that was stopped
SEED_BYTES = 64
LOADS = 2  # a hypervisor that dies while it loads gets a second chance
# What a failed load says of the host and not of the image: it is kept, and the machine sleeps on.
KEEPS_IMAGE = ("memory-short", "qemu-missing", "qemu-too-old", "disk-full", "folder-not-writable")

T = TypeVar("T")
Do = Mapping[Step, Callable[[], Awaitable[None]]]
Say = Callable[[str, str, float | None], None]


class MustBootCold(Exception):
    """The machine's image is gone and nothing runs; the words are why."""


@dataclass(frozen=True)
class Mended:
    """What a guest says after its wake; one of an earlier Proa says less, and more is asked of it."""

    engine_answered: bool  # since it was restored
    due: bool  # containers wait to be thawed or brought back


@dataclass
class _Restoring:
    """What a restore has come to."""

    awaited: bool
    header: Header | None = None
    hypervisor: Hypervisor | None = None
    secret: bytes = b""
    session: Session | None = None
    mended: Mended | None = None


class _Clock:
    """What each step took, for the log."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._told: list[str] = []

    def took(self, step: Step) -> None:
        now = time.monotonic()
        self._told.append(f"{step} {now - self._last:.2f} s")
        self._last = now

    def __str__(self) -> str:
        return ", ".join(self._told)


class Sleeper:
    """The memory image of one machine."""

    def __init__(
        self,
        name: str,
        paths: MachinePaths,
        driver: Driver,
        on_link: Callable[[Session], None] = lambda session: None,
    ) -> None:
        """`on_link` is told of a restored guest that can be spoken to, before its containers go on."""
        self.name = name
        self._on_link = on_link
        self.images = ImageFolder(paths.folder, paths.data_disk)
        self._paths = paths
        self._driver = driver

    @property
    def can_save(self) -> bool:
        return self._driver.capabilities.memory_images is not MemoryImages.NONE

    def asleep(self) -> Header | None:
        """The header of what the machine sleeps in, if it does."""
        return self.images.peek()

    # -- falling asleep ------------------------------------------------------------------------

    async def save(self, session: Session, kind: Kind, ports: tuple[SavedPort, ...] = ()) -> None:
        """Save the session and end its hypervisor. Raises ProaError, and the machine runs on."""
        self._check_room(session.hypervisor)
        await self._carry_out(_Saving(self.images, session, kind, ports).steps(), session.hypervisor)

    async def _carry_out(self, do: Do, hypervisor: Hypervisor) -> None:
        """The steps of a save in their order; what was done is undone where one fails."""
        clock = _Clock()
        for step in SAVE:
            try:
                await do[step]()
                clock.took(step)
            except BaseException as error:
                log.warning("%s: cannot %s (%s)", self.name, step, error)
                for undo in after_failed_save(step):
                    if hypervisor.ended.done() and undo is not Step.DISCARD:
                        continue  # there is no guest any more that could run on
                    try:
                        await do[undo]()
                    except ProaError as second:
                        log.error("%s: cannot %s either (%s)", self.name, undo, second)
                raise
        log.info("%s: saved: %s", self.name, clock)

    def _check_room(self, hypervisor: Hypervisor) -> None:
        need = hypervisor.memory_in_use() + MARGIN
        free = free_disk(self._paths.folder)
        if free < need:
            raise ProaError(
                "disk-full",
                f"there is no room to save the memory of {self.name!r}",
                why=f"it takes {need // MIB} MiB, and {free // MIB} MiB are free",
                hint="free some disk space, or: proa stop --cold",
            )

    # -- waking --------------------------------------------------------------------------------

    async def restore(self, spec: BootSpec, fingerprint: dict[str, str], *, awaited: bool = False) -> Session:
        """The session that the image holds, running, its containers too. Nothing is parked yet (pool.park).

        `awaited`: by a request, which has the guest's whole attention. Else the engine is asked whether it
        answers, as it did.
        Raises MustBootCold where the image could not be used and is gone, and ProaError where it is
        kept and the machine sleeps on. Nothing runs then.
        """
        to = _Restoring(awaited)
        do = self._restoring(to, spec, fingerprint)
        clock = _Clock()
        for step in RESTORE:
            try:
                await do[step]()
            except BaseException as error:
                await self._recover(step, error, to)
                raise
            clock.took(step)
        log.info("%s: woken: %s", self.name, clock)
        assert to.session is not None
        return to.session

    async def _recover(self, step: Step, error: BaseException, to: _Restoring) -> None:
        """Leave nothing running, and raise MustBootCold unless the image is kept."""
        cancelled = not isinstance(error, Exception)
        keeps = cancelled or (isinstance(error, ProaError) and error.code in KEEPS_IMAGE)
        todo = after_failed_restore(step, image_at_fault=not keeps)
        # An agent that is asked to end leaves a guest that runs already to the next one.
        ends = Step.COLD not in todo or not cancelled
        if to.hypervisor is not None:
            if ends:
                await to.hypervisor.quit()
            await (to.hypervisor.detach() if to.session is None else to.session.close())
        if Step.DISCARD in todo and not cancelled:
            await asyncio.to_thread(self.images.drop)
        if Step.COLD in todo and not cancelled:
            raise MustBootCold(str(error)) from error

    def _restoring(self, to: _Restoring, spec: BootSpec, fingerprint: dict[str, str]) -> Do:
        async def check() -> None:
            to.header = await asyncio.to_thread(self.images.check, fingerprint)
            to.secret = bytes.fromhex(to.header.secret)
            write_atomic(self._paths.link_key, to.secret)
            write_atomic(self._paths.guest_config, b"{}")  # a guest that was set up reads it no more

        async def load() -> None:
            to.hypervisor = await self._load(spec)

        async def consume() -> None:
            await asyncio.to_thread(self.images.consume)

        async def run() -> None:
            assert to.hypervisor is not None
            await to.hypervisor.resume()

        async def mend() -> None:
            assert to.hypervisor is not None and to.header is not None
            # No parked streams yet: under emulation they would cost the wake more than they save.
            to.session = Session(self.name, to.hypervisor, to.secret, parked=0)
            to.session.started_with = "memory-image"
            to.session.engine_version = to.header.engine_version
            to.session.slept_at = to.header.saved if to.header.kind == "suspended" else None
            everywhere = to.header.kind == "suspended"
            to.mended = await mend_guest(to.session, self._paths, everywhere=everywhere, ask=not to.awaited)
            to.session.engine_answered = to.mended.engine_answered
            to.session.awaited = to.awaited
            to.session.goes_on = everywhere and to.mended.due
            if everywhere or not to.mended.due:
                to.session.served.clear()
            self._on_link(to.session)

        async def thaw() -> None:
            assert to.session is not None and to.header is not None
            assert to.mended is not None
            to.session.brought_back = to.mended.due and to.header.kind == "stopped"
            if not to.mended.due:
                return
            if to.header.kind == "suspended":
                await thaw_containers(to.session)
            else:
                await bring_back_containers(self.name, to.session)

        return {
            Step.CHECK: check,
            Step.LOAD: load,
            Step.CONSUME: consume,
            Step.RUN: run,
            Step.MEND: mend,
            Step.THAW: thaw,
        }

    async def _load(self, spec: BootSpec) -> Hypervisor:
        for attempt in range(1, LOADS + 1):
            try:
                return await self._driver.restore(spec, self.images.ready, lambda text: None)
            except ProaError as error:
                if attempt == LOADS or error.code in KEEPS_IMAGE:
                    raise
                log.warning("%s: %s; once more", self.name, error)
        raise AssertionError


class _Saving:
    """The steps of a save, and what undoes them."""

    def __init__(
        self, images: ImageFolder, session: Session, kind: Kind, ports: tuple[SavedPort, ...]
    ) -> None:
        self._images = images
        self._session = session
        self._hypervisor = session.hypervisor
        self._kind: Kind = kind
        self._ports = ports

    def steps(self) -> Do:
        return {
            Step.FREEZE: self._freeze,
            Step.SYNC: self._sync,
            Step.PAUSE: self._hypervisor.pause,
            Step.SAVE: self._save,
            Step.VERIFY: self._verify,
            Step.READY: lambda: asyncio.to_thread(self._images.mark_ready),
            Step.END: self._end,
            Step.DISCARD: lambda: asyncio.to_thread(self._images.drop),
            Step.RESUME: self._hypervisor.resume,
            Step.THAW: self._thaw,
        }

    async def _freeze(self) -> None:
        order = {"op": "freeze", "everywhere": self._kind == "suspended"}
        late = (await _order(self._session, order)).get("late")
        if late:
            log.warning("these go on while the machine is saved: %s", str(late)[:200])

    async def _sync(self) -> None:
        await _order(self._session, {"op": "sync"}, SYNC_TIMEOUT)

    async def _thaw(self) -> None:
        await thaw_containers(self._session)

    async def _save(self) -> None:
        await self._hypervisor.save(await asyncio.to_thread(self._images.begin))

    async def _verify(self) -> None:
        await asyncio.to_thread(
            self._images.complete,
            kind=self._kind,
            saved=time.time(),
            fingerprint=self._session.fingerprint,
            secret=self._session.secret,
            engine_version=self._session.engine_version,
            ports=self._ports,
        )

    async def _end(self) -> None:
        await self._hypervisor.quit()
        if not self._hypervisor.ended.done():
            raise ProaError("hypervisor-silent", "the hypervisor does not end", layer="hypervisor")


async def while_alive(hypervisor: Hypervisor, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which asks the guest. Raises ProaError as soon as the hypervisor is gone."""
    asking = asyncio.ensure_future(work)  # noqa: TID251  (it ends here, whatever happens)
    try:
        either: set[asyncio.Future[Any]] = {asking, hypervisor.ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            raise ProaError(
                "hypervisor-died",
                "the hypervisor ended in the middle",
                why="it was killed, or it crashed",
                layer="hypervisor",
            )
        return asking.result()
    finally:
        asking.cancel()


async def _order(
    session: Session, content: dict[str, object], timeout: float = WAKE_TIMEOUT
) -> dict[str, Any]:
    return await while_alive(session.hypervisor, session.control.order(content, timeout))


async def mend_guest(session: Session, paths: MachinePaths, *, everywhere: bool, ask: bool = True) -> Mended:
    """Clock, random pool, connections to the outside and the link's secret of a guest that was restored.

    `everywhere`: in the network namespaces of containers as well; `ask`: the engine, too. Raises ProaError.
    """
    nonce = wire.new_nonce()
    fresh = wire.renewed(session.secret, nonce)
    # An agent that dies in the middle leaves both: the next one tries the new one first.
    write_atomic(next_key(paths), fresh)
    order: dict[str, object] = {"op": "wake", "seed": secrets.token_hex(SEED_BYTES), "nonce": nonce}
    order |= {"everywhere": everywhere, "ask": ask}
    try:
        await while_alive(session.hypervisor, session.control.wait_open(WAKE_TIMEOUT))
    except TimeoutError as error:
        raise ProaError(
            "guest-agent-silent", "the guest does not answer after its wake", layer="guest-agent"
        ) from error
    answer = await _order(session, {**order, "time": time.time()})
    session.renew(fresh)
    if answer.get("ended"):
        log.info("%s connections to the outside were ended", str(answer.get("ended"))[:10])
    write_atomic(paths.link_key, fresh)
    next_key(paths).unlink(missing_ok=True)
    return Mended(answer.get("engine") == "ready", answer.get("due") is not False)


def next_key(paths: MachinePaths) -> Path:
    """Where the link's new secret is while the guest is told of it."""
    return paths.link_key.with_name(paths.link_key.name + ".next")


async def proved_secret(name: str, hypervisor: Hypervisor, paths: MachinePaths) -> bytes:
    """The secret that a running guest holds, of the one or two that an agent left.

    Raises FileNotFoundError, ProaError.
    """
    secret = read_bytes(paths.link_key)
    try:
        fresh = read_bytes(next_key(paths))
    except FileNotFoundError:
        return secret
    tasks = Tasks(f"machine {name}, which key")
    pool = LinkPool(Loopback(*hypervisor.link_address), fresh, tasks, parked=0)
    try:
        (await pool.open("control", timeout=10)).abort()
    except ProaError:
        return secret
    finally:
        await pool.close()
        await tasks.close()
    write_atomic(paths.link_key, fresh)
    next_key(paths).unlink(missing_ok=True)
    return fresh


async def thaw_containers(session: Session) -> None:
    """Raises ProaError."""
    await _order(session, {"op": "thaw"})


async def bring_back_containers(name: str, session: Session) -> None:
    """Start those containers of a machine that was stopped which a reboot would bring back."""
    try:
        answer = await _order(session, {"op": "bring-back"}, BRING_BACK_TIMEOUT)
    except ProaError as error:
        # The note stays on the disk: the next start tries again.
        log.warning("%s: containers were not brought back: %s", name, error)
        return
    session.brought_back = bool(answer.get("started"))
    if answer.get("not_started"):
        log.warning("%s: these containers did not start: %s", name, str(answer["not_started"])[:500])
