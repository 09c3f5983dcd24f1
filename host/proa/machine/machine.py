"""One machine: start, stop, restart, delete, status, adoption. What it decides is in `lifecycle`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from proa.drivers.base import BootSpec, Driver, ExitReason
from proa.images.store import Image, ImageStore
from proa.link.stream import LinkStream
from proa.machine import guest_config, readiness
from proa.machine.host_checks import check_room, check_sizes
from proa.machine.lifecycle import Facts, derive
from proa.machine.session import Session
from proa.machine.store import MachineStore
from proa.model.errors import ProaError
from proa.model.machine import EngineInfo, MachineConfig, MachineState, MachineStatus
from proa.model.problem import Problem
from proa.system.files import make_private_folder, read_bytes, write_atomic
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
    ) -> None:
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
        self._busy = asyncio.Lock()
        self._operation: MachineState | None = None
        self._settled = asyncio.Event()
        self._settled.set()
        self._tasks = Tasks(f"machine {name}")

    # -- what others ask of it --------------------------------------------------------------

    async def open_stream(self, target: str, extra: Mapping[str, object] | None = None) -> LinkStream:
        """A stream to `target` in the guest; waits while the machine starts.

        Raises ProaError `machine-not-running` with the way out where it is not.
        """
        if self._operation is MachineState.STARTING:
            await self._settled.wait()
        if self.session is None:
            state, problem = derive(self.name, self._facts())
            raise ProaError(
                "machine-not-running",
                f"the machine {self.name!r} is {state}",
                why=problem.message if problem else "",
                hint=f"start it: proa start {self.name}",
            )
        return await self.session.pool.open(target, extra=extra)

    async def status(self) -> MachineStatus:
        """What is, from facts. Never raises: what cannot be read is in `problem`."""
        config, problem = self._config()
        answers = await self._ping() if self._operation is None else False
        state, why = derive(self.name, self._facts(config_problem=problem, engine_answers=answers))
        session = self.session
        version = session.engine_version if session else ""
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
        )

    async def start(self, say: Say) -> MachineStatus:
        """Boot it and wait until the engine answers; nothing to do where it answers already."""
        async with self._doing(MachineState.STARTING, say):
            if self.session is not None and not await self._ping():
                await self._finish_start(self.session, say)
            elif self.session is None:
                await self._start_cold(say)
        return await self.status()

    async def stop(self, say: Say, *, force: bool = False) -> MachineStatus:
        """Power it off: gracefully, then by force; `force` skips the first."""
        async with self._doing(MachineState.STOPPING, say):
            await self._end(say, force=force)
        return await self.status()

    async def restart(self, say: Say, *, force: bool = False) -> MachineStatus:
        async with self._doing(MachineState.STOPPING, say):
            await self._end(say, force=force)
            self._operation = MachineState.STARTING
            self._settled.clear()
            await self._start_cold(say)
        return await self.status()

    async def delete(self, say: Say) -> None:
        """End it and remove it with all its data."""
        async with self._doing(MachineState.STOPPING, say):
            if self.session is not None:
                say("hypervisor", "ending the machine", None)
                await self._quit(self.session)
            say("disk", "removing its data", None)
            await asyncio.to_thread(self._store.delete, self.name)
        await self._tasks.close()

    async def adopt(self) -> None:
        """Take over a hypervisor that outlived an earlier agent; heal what that agent left half done."""
        if not self._store.is_alive(self.name):
            return
        hypervisor = await self._driver.adopt(self.paths.runtime, self.paths.console_log)
        if hypervisor is None:
            await self._driver.end_stray(self.name, self.paths.runtime)
            return
        try:
            secret = read_bytes(self.paths.link_key)
            paused = await hypervisor.is_paused()
        except (FileNotFoundError, ProaError) as error:
            log.warning("%s: cannot be adopted (%s), ending it", self.name, error)
            await hypervisor.quit()
            return
        if paused:
            log.warning("%s: an earlier start did not come to its end, ending it", self.name)
            await hypervisor.quit()
            return
        log.info("%s: adopted, pid %d", self.name, hypervisor.pid)
        self._operation = MachineState.STARTING
        self._settled.clear()
        self.session = Session(self.name, hypervisor, secret)
        self.session.start_seconds = self._store.record(self.name).start_seconds
        self._tasks.start(self._watch(self.session), name="watch")
        self._tasks.start(self._finish_adoption(self.session), name="adoption")

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
            if operation is MachineState.STARTING:
                self._settled.clear()
            try:
                yield
            finally:
                self._operation = None
                self._settled.set()

    async def _start_cold(self, say: Say) -> None:
        began = time.monotonic()
        config = self._store.load(self.name)
        try:
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
        )

    async def _bring_up(self, session: Session, say: Say) -> None:
        try:
            await self._finish_start(session, say)
        except ProaError:
            await self._quit(session)
            raise

    async def _boot(self, config: MachineConfig, say: Say) -> Session:
        """From a config to a guest that runs; nothing is left where it fails."""
        check_sizes(config)
        check_room(self._places)
        image = await self._checked_image(config, say)
        info = await self._driver.probe(
            image.kernel, image.initrd, lambda text: say("hypervisor", text, None)
        )
        log.info("%s: hypervisor %s with %s: %s", self.name, info.version, info.accelerator, info.reason)
        if self.paths.data_disk.exists():
            await self._driver.grow_disk(self.paths.data_disk, config.disk)
        else:
            await self._driver.make_disk(self.paths.data_disk, config.disk)
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
        secret = guest_config.new_secret()
        try:
            write_atomic(self.paths.link_key, secret)
            write_atomic(self.paths.guest_config, guest_config.render(config, secret))
            say("hypervisor", f"booting with {info.accelerator}", None)
            hypervisor = await self._driver.boot(
                self._spec(config, image, lock.fd), lambda text: say("hypervisor", text, None)
            )
        finally:
            lock.release()
        session = self.session = Session(self.name, hypervisor, secret)
        self._tasks.start(self._watch(session), name="watch")
        try:
            await hypervisor.resume()
        except ProaError:
            await self._quit(session)
            raise
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
        self._store.keep_booted_image(self.name, image.id)
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
        session.engine_version = await self._engine(lambda: session.pool.open("engine")).version()
        await self._on_up(session)

    async def _finish_adoption(self, session: Session) -> None:
        async with self._busy:
            try:
                await self._finish_start(session, lambda step, message, fraction: None)
            except ProaError as error:
                log.warning("%s: adopted, but not well: %s", self.name, error)
            finally:
                self._operation = None
                self._settled.set()

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
