"""One machine: start, stop, restart, delete, status, adoption. What it decides is in `lifecycle`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from proa.drivers.base import BootSpec, Driver, ExitReason, Hypervisor
from proa.images.store import Image, ImageStore
from proa.link.stream import LinkStream
from proa.machine import guest_config, readiness
from proa.machine.host_checks import check_room, check_sizes
from proa.machine.lifecycle import BOUNDS, Facts, derive
from proa.machine.session import Session
from proa.machine.sleep.fingerprint import fingerprint
from proa.machine.sleep.idle import OpenStreams
from proa.machine.sleep.images import Kind, SavedPort
from proa.machine.sleep.order import Left, Step, after_crash
from proa.machine.sleep.sleeper import (
    MustBootCold,
    Sleeper,
    mend_guest,
    next_key,
    proved_secret,
    thaw_containers,
)
from proa.machine.store import MachineStore
from proa.model.errors import ProaError
from proa.model.machine import EngineInfo, MachineConfig, MachineState, MachineStatus
from proa.model.problem import Problem
from proa.system.files import make_private_folder, write_atomic
from proa.system.locks import FileLock
from proa.system.paths import MachinePaths, Places
from proa.system.processes import boot_id
from proa.system.tasks import Tasks

log = logging.getLogger("proa.machine")

Say = Callable[[str, str, float | None], None]  # step, message, fraction of it (0..1) where known
LOCK_TIMEOUT = 5.0  # seconds until a hypervisor that was asked to end has let go of its lock
PING_TIMEOUT = 2.0  # seconds; an engine that needs longer to answer a ping is not well
# A graceful power-off lets containers end (10 s by Docker's own default) and flushes the disk.
POWER_OFF_TIMEOUT = {"tcg": 90.0}
POWER_OFF_TIMEOUT_HARDWARE = 45.0
BY_HAND = "proa start"


class Engine(Protocol):
    """What a machine asks of its engine."""

    async def version(self) -> str:
        """Raises ProaError where it does not answer."""

    async def ping(self) -> None:
        """Raises ProaError where it does not answer."""


class Machine:
    """The owner of one machine's folder, hypervisor and link."""

    def __init__(
        self,
        name: str,
        *,
        places: Places,
        store: MachineStore,
        images: ImageStore,
        driver: Driver,
        engine: Callable[[Callable[[], Awaitable[LinkStream]]], Engine],
        on_up: Callable[[Session], Awaitable[None]],
        on_down: Callable[[], Awaitable[None]],
        ports: Callable[[], tuple[SavedPort, ...]] = tuple,
        on_asleep: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`on_up` and `on_down` are told when a session begins and ends; `on_asleep` instead of `on_down`
        when it was suspended, and `ports` is what is to be held while it sleeps."""
        self.name = name
        self.paths: MachinePaths = places.machine(name)
        self.session: Session | None = None
        self._places = places
        self._store = store
        self._images = images
        self._driver = driver
        self._engine = engine
        self._on_up = on_up
        self._on_down = on_down
        self._on_asleep = on_asleep or on_down
        self._ports = ports
        self.sleeper = Sleeper(name, self.paths, driver)
        self.streams = OpenStreams()
        self._waking: asyncio.Task[MachineStatus] | None = None
        self._busy = asyncio.Lock()
        self._operation: MachineState | None = None
        self._settled = asyncio.Event()
        self._settled.set()
        self._tasks = Tasks(f"machine {name}")

    # -- what others ask of it --------------------------------------------------------------

    async def open_stream(
        self, target: str, extra: Mapping[str, object] | None = None, by: str = "a request"
    ) -> LinkStream:
        """A stream to `target` in the guest; waits while the machine starts, and wakes one that sleeps.

        `by` says who wants it, for a person. Raises ProaError `machine-not-running` with the way out
        where it is stopped.
        """
        await self._settled.wait()
        if self.session is None and self.suspended:
            await self._wake(by)
        if self.session is None:
            state, problem = derive(self.name, self._facts())
            raise ProaError(
                "machine-not-running",
                f"the machine {self.name!r} is {state}",
                why=problem.message if problem else "",
                hint=f"start it: proa start {self.name}",
            )
        stream = await self.session.pool.open(target, extra=extra)
        self.streams.opened(target, stream.transport)
        return stream

    def config(self) -> MachineConfig:
        """What `machine.toml` says, or the defaults where it cannot be read."""
        return self._config()[0]

    @property
    def suspended(self) -> bool:
        """Whether it sleeps with its containers."""
        header = self.sleeper.asleep() if self.session is None else None
        return header is not None and header.kind == "suspended"

    @property
    def is_suspending(self) -> bool:
        return self._operation is MachineState.SUSPENDING

    async def _wake(self, by: str) -> None:
        """However many ask at once, it is woken once. Raises ProaError."""
        if self._waking is None or self._waking.done():
            self._waking = self._tasks.start(self.start(_silently, by=by), name="wake")
        await asyncio.shield(self._waking)

    async def status(self) -> MachineStatus:
        """What is, from facts. Never raises: what cannot be read is in `problem`."""
        config, problem = self._config()
        answers = await self._ping() if self._operation is None else False
        state, why = derive(self.name, self._facts(config_problem=problem, engine_answers=answers))
        session = self.session
        asleep = self.sleeper.asleep() if session is None else None
        version = session.engine_version if session else asleep.engine_version if asleep else ""
        return MachineStatus(
            name=self.name,
            state=state,
            problem=why,
            driver=config.driver,
            accelerator=session.hypervisor.accelerator if session else "",
            engine=EngineInfo(version=version, socket=str(self.paths.engine_socket)),
            started_with=session.started_with if session else "",
            start_seconds=session.start_seconds if session else None,
            cpus=config.cpus,
            memory=config.memory,
            disk=config.disk,
            pid=session.hypervisor.pid if session else None,
            asleep_since=asleep.saved if asleep and state is MachineState.SUSPENDED else None,
            woken_by=self._store.record(self.name).woken_by,
        )

    async def start(self, say: Say, *, by: str = BY_HAND) -> MachineStatus:
        """Wake or boot it and wait until the engine answers; nothing to do where it answers already."""
        async with self._doing(MachineState.STARTING, say):
            if self.session is not None and not await self._ping():
                await self._finish_start(self.session, say)
            elif self.session is None:
                await self._start(say, by)
        return await self.status()

    async def stop(self, say: Say, *, cold: bool = False, force: bool = False) -> MachineStatus:
        """Stop its containers and keep the idle engine in a memory image, or power it off.

        `cold` powers off gracefully, then by force; `force` at once.
        """
        async with self._doing(MachineState.STOPPING, say):
            await self._stop(say, cold=cold, force=force)
        return await self.status()

    async def restart(self, say: Say, *, cold: bool = False, force: bool = False) -> MachineStatus:
        """A machine that is not well, or whose config changed, is booted anew all the same."""
        async with self._doing(MachineState.STOPPING, say):
            unwell = self.session is not None and not await self._ping()
            await self._stop(say, cold=cold or unwell, force=force)
            self._operation = MachineState.STARTING
            self._settled.clear()
            await self._start(say, "proa restart")
        return await self.status()

    async def suspend(self, say: Say) -> MachineStatus:
        """Save it with its containers and end the hypervisor; where that fails it runs on.

        Raises ProaError `cannot-suspend`, `machine-not-running`, `disk-full` …
        """
        async with self._doing(MachineState.SUSPENDING, say):
            if self.session is not None:
                if not (self.sleeper.can_save and self.session.control.can_sleep):
                    raise _cannot_suspend(self._driver.name)
                say("memory", "saving its memory", None)
                await self._save(self.session, "suspended")
            elif not self.suspended:
                raise ProaError(
                    "machine-not-running",
                    f"{self.name!r} does not run, so it cannot be suspended",
                    hint=f"start it: proa start {self.name}",
                )
        return await self.status()

    async def delete(self, say: Say) -> None:
        """End it and remove it with all its data."""
        async with self._doing(MachineState.STOPPING, say):
            await self._on_down()
            if self.session is not None:
                say("hypervisor", "ending the machine", None)
                await self._quit(self.session)
            say("disk", "removing its data", None)
            await asyncio.to_thread(self._store.delete, self.name)
        await self._tasks.close()

    async def adopt(self) -> None:
        """Take over a hypervisor that outlived an earlier agent; heal what that agent left half done."""
        if not self._store.is_alive(self.name):
            await asyncio.to_thread(self.sleeper.images.sweep)
            return
        hypervisor = await self._driver.adopt(self.paths.runtime, self.paths.console_log)
        if hypervisor is None:
            await self._driver.end_stray(self.name, self.paths.runtime)
            return
        try:
            todo = await self._left_by_a_crash(hypervisor)
            if Step.END in todo:
                raise ProaError("start-unfinished", "an earlier start or stop did not come to its end")
            if Step.DISCARD in todo:
                await asyncio.to_thread(self.sleeper.images.drop)
            if Step.RUN in todo or Step.RESUME in todo:
                await hypervisor.resume()
            secret = await proved_secret(self.name, hypervisor, self.paths)
        except (FileNotFoundError, ProaError) as error:
            log.warning("%s: cannot be adopted (%s), ending it", self.name, error)
            await hypervisor.quit()
            await hypervisor.detach()
            return
        log.info("%s: adopted, pid %d", self.name, hypervisor.pid)
        self._operation = MachineState.STARTING
        self._settled.clear()
        self.session = Session(self.name, hypervisor, secret)
        record = self._store.record(self.name)
        self.session.started_with = record.started_with or "cold"
        self.session.start_seconds = record.start_seconds
        self.session.fingerprint = record.fingerprint
        self._tasks.start(self._watch(self.session), name="watch")
        self._tasks.start(self._finish_adoption(self.session, todo), name="adoption")

    async def _left_by_a_crash(self, hypervisor: Hypervisor) -> tuple[Step, ...]:
        left = Left(
            alive=True,
            paused=await hypervisor.is_paused(),
            has_guest=await hypervisor.has_guest(),
            ready=self.sleeper.images.exists(),
            consumed=self.sleeper.images.used.exists(),
        )
        todo = after_crash(left)
        if todo != (Step.THAW,):
            log.warning("%s: an agent died in the middle: %s", self.name, ", ".join(todo))
        return todo

    async def let_go(self) -> None:
        """The agent ends: the machine goes on running."""
        await self._tasks.close()
        if self.session is not None:
            session, self.session = self.session, None
            await self._on_down()
            await session.close()

    # -- the steps ---------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _doing(self, operation: MachineState, say: Say) -> AsyncIterator[None]:
        if self._busy.locked():
            say("wait", f"waiting: {self.name!r} is {self._operation or 'busy'}", None)
        async with self._busy:
            self._operation = operation
            if operation in (MachineState.STARTING, MachineState.SUSPENDING):
                self._settled.clear()
            try:
                yield
            finally:
                self._operation = None
                self._settled.set()

    async def _start(self, say: Say, by: str) -> None:
        """From its memory image where there is one that can be used, else cold."""
        began = time.monotonic()
        config = self._store.load(self.name)
        woken_by = by if self.suspended else self._store.record(self.name).woken_by
        try:
            session = await self._restore(config, say) if self.sleeper.images.exists() else None
            if session is None:
                session = await self._boot(config, say)
            await self._bring_up(session, say)
        except ProaError as error:
            self._remember(intent="stopped", problem=Problem.of(error))
            raise
        session.start_seconds = round(time.monotonic() - began, 2)
        self._remember(
            intent="running",
            boot_id=boot_id(),
            started_with=session.started_with,
            start_seconds=session.start_seconds,
            woken_by=woken_by,
        )
        self._tasks.start(asyncio.to_thread(self.sleeper.images.sweep), name="remove the used image")

    async def _bring_up(self, session: Session, say: Say) -> None:
        try:
            await self._finish_start(session, say)
        except ProaError:
            await self._quit(session)
            raise

    @contextlib.asynccontextmanager
    async def _ground(
        self, config: MachineConfig, say: Say
    ) -> AsyncIterator[tuple[BootSpec, dict[str, str]]]:
        """What every start stands on: sizes, room, a checked guest image, a proved accelerator, the lock.

        The fingerprint says what a memory image of it depends on.
        """
        check_sizes(config)
        check_room(self._places)
        image = await self._checked_image(config, say)
        info = await self._driver.probe(
            image.kernel, image.initrd, lambda text: say("hypervisor", text, None)
        )
        log.info("%s: hypervisor %s with %s: %s", self.name, info.version, info.accelerator, info.reason)
        make_private_folder(self.paths.runtime)
        lock = await self._take_lock()
        if lock is None:
            raise ProaError(
                "machine-locked",
                f"the machine {self.name!r} is in use",
                why="another process holds its lock, and it is not a hypervisor that this agent knows",
                hint=f"see who: fuser {self.paths.lock}",
                layer="hypervisor",
            )
        try:
            spec = self._spec(config, image, lock.fd)
            yield spec, fingerprint(config, image.id, spec, self._driver)
        finally:
            lock.release()

    async def _boot(self, config: MachineConfig, say: Say) -> Session:
        """From a config to a guest that runs; nothing is left where it fails."""
        async with self._ground(config, say) as (spec, mark):
            # An image is older than the disk from now on.
            await asyncio.to_thread(self.sleeper.images.drop)
            if self.paths.data_disk.exists():
                await self._driver.grow_disk(self.paths.data_disk, config.disk)
            else:
                await self._driver.make_disk(self.paths.data_disk, config.disk)
            secret = guest_config.new_secret()
            write_atomic(self.paths.link_key, secret)
            next_key(self.paths).unlink(missing_ok=True)
            write_atomic(self.paths.guest_config, guest_config.render(config, secret))
            say("hypervisor", "booting", None)
            hypervisor = await self._driver.boot(spec, lambda text: say("hypervisor", text, None))
        session = self.session = Session(self.name, hypervisor, secret)
        session.fingerprint = mark
        self._remember(fingerprint=mark)
        self._tasks.start(self._watch(session), name="watch")
        try:
            await hypervisor.resume()
        except ProaError:
            await self._quit(session)
            raise
        return session

    async def _restore(self, config: MachineConfig, say: Say) -> Session | None:
        """From its memory image to a guest that runs, or None where the image cannot be used, and is gone."""
        say("memory", "restoring its memory", None)
        try:
            async with self._ground(config, say) as (spec, mark):
                session = await self.sleeper.restore(spec, mark)
        except MustBootCold as reason:
            say("memory", f"its memory image is dropped, and it boots cold: {reason}", None)
            log.warning("%s: the memory image is dropped: %s", self.name, reason)
            return None
        session.fingerprint = mark
        self.session = session
        self._tasks.start(self._watch(session), name="watch")
        return session

    async def _take_lock(self) -> FileLock | None:
        """The machine's lock; a hypervisor that an earlier agent lost is ended for it."""
        lock = FileLock.try_acquire(self.paths.lock)
        if lock is not None:
            return lock
        await self._driver.end_stray(self.name, self.paths.runtime)
        deadline = time.monotonic() + LOCK_TIMEOUT
        while lock is None and time.monotonic() < deadline:
            lock = FileLock.try_acquire(self.paths.lock)
            if lock is None:
                await asyncio.sleep(0.05)
        return lock

    def _spec(self, config: MachineConfig, image: Image, lock_fd: int) -> BootSpec:
        return BootSpec(
            name=self.name,
            cpus=config.cpus,
            memory=config.memory,
            kernel=image.kernel,
            initrd=image.initrd,
            root=image.root,
            data_disk=self.paths.data_disk,
            command_line=image.manifest.commandline,
            guest_config=self.paths.guest_config,
            runtime=self.paths.runtime,
            console_log=self.paths.console_log,
            lock_fd=lock_fd,
        )

    async def _checked_image(self, config: MachineConfig, say: Say) -> Image:
        image = self._images.get(config.image) if config.image else self._images.newest()
        await asyncio.to_thread(self._images.verify, image)
        say("image", f"guest image {image.id}", None)
        return image

    async def _finish_start(self, session: Session, say: Say) -> None:
        """Wait for all layers, then let the engine's socket and the ports come up."""
        await readiness.wait_ready(
            session,
            session.hypervisor.accelerator,
            self.paths.console_log,
            lambda step, message: say(step, message, None),
        )
        engine = self._engine(lambda: session.pool.open("engine"))
        if session.engine_version:
            await engine.ping()  # a restored one: to ask for its version costs it processes
        else:
            session.engine_version = await engine.version()
        await self._on_up(session)
        session.pool.park()

    async def _finish_adoption(self, session: Session, todo: tuple[Step, ...]) -> None:
        async with self._busy:
            try:
                if Step.MEND in todo:
                    await mend_guest(session, self.paths, everywhere=True)
                if Step.THAW in todo:
                    await self._thaw_adopted(session)
                await self._finish_start(session, lambda step, message, fraction: None)
            except ProaError as error:
                log.warning("%s: adopted, but not well: %s", self.name, error)
            finally:
                self._operation = None
                self._settled.set()

    async def _thaw_adopted(self, session: Session) -> None:
        """An agent that died may have left containers frozen, or a used image."""
        bound = BOUNDS["guest-agent"].seconds(session.hypervisor.accelerator)
        try:
            await session.control.wait_until(lambda status: True, bound)
        except TimeoutError:
            return  # readiness says so, with its layer
        if session.control.can_sleep:  # else it is one of an earlier Proa, which nobody froze
            await thaw_containers(session)
        await asyncio.to_thread(self.sleeper.images.sweep)

    async def _stop(self, say: Say, *, cold: bool, force: bool) -> None:
        if self.session is None and self.suspended and not force:
            # Its containers are to be stopped as gracefully as those of a machine that runs.
            say("memory", "waking it, to stop its containers", None)
            await self._start(say, "proa stop")
        if not (cold or force) and self.session is not None and self.sleeper.can_save:
            try:
                await self._stop_warm(self.session, say)
                return
            except ProaError as error:
                say("memory", f"its memory cannot be kept, powering off: {error}", None)
                log.warning("%s: cannot be stopped warm: %s", self.name, error)
        if self.session is None and not (cold or force) and self.sleeper.images.exists():
            return  # it sleeps already
        await asyncio.to_thread(self.sleeper.images.drop)
        await self._end(say, force=force)
        await self._on_down()  # the ports of one that slept

    async def _stop_warm(self, session: Session, say: Say) -> None:
        """Raises ProaError, and the machine runs, with its containers stopped or not."""
        if not session.control.can_sleep or not await self._ping():
            raise ProaError("engine-silent", "the guest or its engine does not answer", layer="engine")
        bound = POWER_OFF_TIMEOUT.get(session.hypervisor.accelerator, POWER_OFF_TIMEOUT_HARDWARE)
        say("engine", "stopping containers", None)
        await session.control.order({"op": "halt", "timeout": bound}, bound + 10)
        say("memory", "saving its memory", None)
        await self._save(session, "stopped")

    async def _save(self, session: Session, kind: Kind) -> None:
        """Save the session and end it. Raises ProaError, and it runs on unless its hypervisor is gone."""
        ports = self._ports() if kind == "suspended" else ()
        # Who watches the engine lets go first: it would only see its connections break.
        await (self._on_asleep() if kind == "suspended" else self._on_down())
        try:
            await self.sleeper.save(session, kind, ports)
        except ProaError:
            if session.hypervisor.ended.done():
                await self._quit(session)
            elif kind == "suspended":
                await self._on_up(session)
            raise
        self.session = None
        self._remember(intent="stopped")
        await session.close()

    async def _end(self, say: Say, *, force: bool) -> None:
        session = self.session
        if session is not None and not force:
            say("guest-agent", "powering off", None)
            await self._power_off(session)
        if session is not None:
            await self._quit(session)
        self._remember(intent="stopped")

    async def _power_off(self, session: Session) -> None:
        """Ask the guest to end; whatever it answers, `_quit` comes after the bound."""
        accelerator = session.hypervisor.accelerator
        try:
            async with asyncio.timeout(POWER_OFF_TIMEOUT.get(accelerator, POWER_OFF_TIMEOUT_HARDWARE)):
                await session.control.poweroff()
                await asyncio.shield(session.hypervisor.ended)
        except TimeoutError:
            log.warning("%s: did not power off in time, ending it by force", self.name)
        except ProaError as error:
            log.warning("%s: cannot be asked to power off (%s), ending it by force", self.name, error)

    async def _quit(self, session: Session) -> None:
        if self.session is session:
            self.session = None
            await self._on_down()
        await session.hypervisor.quit()
        await session.close()

    async def _watch(self, session: Session) -> None:
        """See the hypervisor's end within a moment, and say why."""
        reason = await asyncio.shield(session.hypervisor.ended)
        if self.session is not session or self._operation is not None:
            return  # whoever is at work sees it too
        self.session = None
        error = readiness.ended(reason, self.paths.console_log)
        log.warning("%s: ended by itself: %s", self.name, error)
        if reason is ExitReason.POWER_OFF:
            self._remember(intent="stopped")
        elif reason is not ExitReason.DIED:
            self._remember(problem=Problem.of(error))
        await self._on_down()
        await session.close()

    # -- facts -------------------------------------------------------------------------------

    def _facts(self, *, config_problem: Problem | None = None, engine_answers: bool = False) -> Facts:
        record = self._store.record(self.name)
        session = self.session
        return Facts(
            exists=self._store.exists(self.name),
            operation=self._operation,
            alive=session is not None or self._store.is_alive(self.name),
            suspended=self.suspended,
            engine_answers=engine_answers,
            config_problem=config_problem,
            health_problem=self._health() if session else None,
            wanted_running=record.intent == "running" and record.boot_id == boot_id(),
            last_problem=record.problem,
        )

    def _health(self) -> Problem | None:
        """What the guest's last word says is wrong, where it says so."""
        latest = self.session.control.latest if self.session else None
        error = readiness.hopeless(latest) if latest else None
        return Problem.of(error) if error else None

    def _config(self) -> tuple[MachineConfig, Problem | None]:
        try:
            return self._store.load(self.name), None
        except ProaError as error:
            return MachineConfig(name=self.name, cpus=0, memory=0, disk=0, driver=""), Problem.of(error)

    async def _ping(self) -> bool:
        session = self.session
        if session is None:
            return False
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                await self._engine(lambda: session.pool.open("engine")).ping()
        except (ProaError, TimeoutError):
            return False
        return True

    def _remember(self, **changes: object) -> None:
        record = msgspec.structs.replace(self._store.record(self.name), problem=None)
        record = msgspec.structs.replace(record, **changes)
        if self._store.exists(self.name):
            self._store.keep_record(self.name, record)


def _silently(step: str, message: str, fraction: float | None) -> None:
    """Nobody watches how a wake goes."""


def _cannot_suspend(driver: str) -> ProaError:
    return ProaError(
        "cannot-suspend",
        "this machine cannot be suspended",
        why=f"the driver {driver} saves no memory on this system, or the guest is of an earlier Proa",
        hint="proa stop powers it off",
    )
