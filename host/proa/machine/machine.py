"""One machine: start, stop, suspend, wake, delete, status, adoption. What it decides is in `lifecycle`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from proa.drivers.base import Driver, ExitReason
from proa.images.store import ImageStore
from proa.link.stream import LinkStream
from proa.machine import adoption, health, last_logs, readiness
from proa.machine.booting import Booter, Say
from proa.machine.guardian import Guardian
from proa.machine.lifecycle import died, rebooted
from proa.machine.memo import Memo
from proa.machine.session import POWER_OFF_TIMEOUT, Session
from proa.machine.sleep.idle import OpenStreams
from proa.machine.sleep.images import Kind, SavedPort
from proa.machine.sleep.order import Step
from proa.machine.sleep.sleeper import MustBootCold, Sleeper
from proa.machine.store import MachineStore
from proa.machine.view import AskEngine, View
from proa.model.errors import ProaError
from proa.model.events import Emit, EventKind
from proa.model.machine import MachineConfig, MachineState, MachineStatus
from proa.model.problem import Problem
from proa.system.memory import free_disk
from proa.system.paths import MachinePaths, Places
from proa.system.processes import boot_id
from proa.system.tasks import Tasks

log = logging.getLogger("proa.machine")

GO_ON_TIMEOUT = 5.0  # seconds for a paused guest to show that its disk can be written now
HALT_MARGIN = 10.0  # seconds for the guest's answer after its containers' own time to end
BY_HAND = "proa start"


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
        engine: AskEngine,
        on_up: Callable[[Session], Awaitable[None]],
        on_down: Callable[[], Awaitable[None]],
        emit: Emit,
        ports: Callable[[], tuple[SavedPort, ...]] = tuple,
        on_asleep: Callable[[], Awaitable[None]] | None = None,
        on_link: Callable[[Session, bool], None] = lambda session, fresh: None,
    ) -> None:
        """`on_up` and `on_down` are told when a session begins and ends; `on_asleep` instead of `on_down`
        when it was suspended, and `ports` is what is to be held while it sleeps. `on_link` is told early,
        before containers run, and whether the guest was just booted (`fresh`) or goes on."""
        self.name = name
        self.paths: MachinePaths = places.machine(name)
        self.session: Session | None = None
        self._store = store
        self._driver = driver
        self._engine = engine
        self._on_up = on_up
        self._on_down = on_down
        self._emit = emit
        self._memo = Memo(store, name)
        self._guardian = Guardian(self, emit)
        self._view = View(self, store, self._memo, self._guardian, engine)
        self._on_asleep = on_asleep or on_down
        self._ports = ports
        self._on_link = on_link
        self.sleeper = Sleeper(name, self.paths, driver, lambda session: on_link(session, False))
        self.streams = OpenStreams()
        self._booter = Booter(
            self.paths, places=places, store=store, images=images, driver=driver, sleeper=self.sleeper
        )
        self._waking: asyncio.Task[MachineStatus] | None = None
        self._deleted = False
        self._adoption: asyncio.Task[None] | None = None
        self._busy = asyncio.Lock()
        self.operation: MachineState | None = None  # what is being done to it
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
        problem = self._guardian.problem if self._guardian.paused else None
        # It may go on already, a moment before the next look at it.
        if problem and self.session and await self.session.hypervisor.stall() is not None:
            raise problem.error()
        if self.session is None:
            state, problem = self._view.state()
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
        return self._view.config()[0]

    @property
    def suspended(self) -> bool:
        """Whether it sleeps with its containers."""
        header = self.sleeper.asleep() if self.session is None else None
        return header is not None and header.kind == "suspended"

    @property
    def is_suspending(self) -> bool:
        return self.operation is MachineState.SUSPENDING

    async def _wake(self, by: str) -> None:
        """However many ask at once, it is woken once. Raises ProaError."""
        if self._waking is None or self._waking.done():
            self._waking = self._tasks.start(self.start(_quietly, by=by), name="wake")
        await asyncio.shield(self._waking)

    async def status(self) -> MachineStatus:
        """What is, from facts. Never raises: what cannot be read is in `problem`."""
        return await self._view.status()

    async def start(self, say: Say, *, by: str = BY_HAND) -> MachineStatus:
        """Wake or boot it and wait until the engine answers; nothing to do where it answers already."""
        await self._guardian.command(MachineState.STARTING)
        async with self._doing(MachineState.STARTING, say):
            if self.session is not None and not (self.session.engine_version and await self._view.ping()):
                await self._heal(self.session, say)
            if came_up := self.session is None:
                await self._start_or_fail(say, by)
        return await self._view.status(answered=came_up)

    async def revive(self) -> None:
        """Start it by ourselves, unless a command came between. Raises ProaError; it stays wanted."""
        async with self._doing(MachineState.STARTING, _quietly):
            if self._memo.record.intent == "running" and self.session is None:
                await self._start(self._read_config(), _quietly, "")

    async def settle(self, session: Session) -> None:
        """Come up at last: the engine of a machine that was not well when it was adopted answers now."""
        async with self._busy:
            if self.session is session and not session.engine_version:
                try:
                    await self._finish_start(session, _quietly)
                except ProaError as error:
                    log.info("%s: not yet: %s", self.name, error)

    def give_up(self, problem: Problem) -> None:
        """It is not started by itself any more."""
        self._memo.change(intent="stopped", problem=problem)

    async def stop(self, say: Say, *, cold: bool = False, force: bool = False) -> MachineStatus:
        """Stop its containers and keep the idle engine in a memory image, or power it off.

        `cold` powers off gracefully, then by force; `force` at once.
        """
        await self._call_off()
        async with self._doing(MachineState.STOPPING, say):
            await self._stop(say, cold=cold, force=force)
        return await self.status()

    async def restart(self, say: Say, *, cold: bool = False, force: bool = False) -> MachineStatus:
        """A machine that is not well, or whose config changed, is booted anew all the same."""
        await self._call_off()
        async with self._doing(MachineState.STOPPING, say):
            unwell = self.session is not None and not await self._view.ping()
            await self._stop(say, cold=cold or unwell, force=force)
            self.operation = MachineState.STARTING
            self._settled.clear()
            await self._start_or_fail(say, "proa restart")
        return await self._view.status(answered=True)

    async def suspend(self, say: Say) -> MachineStatus:
        """Save it with its containers and end the hypervisor; where that fails it runs on.

        Raises ProaError `cannot-suspend`, `machine-not-running`, `disk-full` …
        """
        async with self._doing(MachineState.SUSPENDING, say):
            if self._guardian.paused and self._guardian.problem is not None:
                raise self._guardian.problem.error()
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
        await self._call_off()
        async with self._doing(MachineState.STOPPING, say):
            self._memo.change(intent="stopped")
            await self._on_down()  # the ports of one that sleeps
            if self.session is not None:
                say("hypervisor", "ending the machine", None)
                await self._quit(self.session)
            await self._end_stray()
            say("disk", "removing its data", None)
            await asyncio.to_thread(self._store.delete, self.name)
            self._deleted = True
            self._emit(EventKind.STATE, "it was deleted with its data")
        await self._guardian.close()
        await self._tasks.close()

    async def adopt(self) -> None:
        """Take over a hypervisor that outlived an earlier agent; heal what that agent left half done."""
        if not self._store.is_alive(self.name):
            await asyncio.to_thread(self.sleeper.images.sweep)
            self._miss()
            return
        found = await adoption.take_over(self._driver, self.paths, self.sleeper.images, self._emit)
        if found is None:
            self._miss()
            return
        record = self._memo.record
        if record.intent == "stopped":  # its record was lost, or it was just woken: what runs is wanted
            self._memo.change(intent="running", boot_id=boot_id())
        self.operation = MachineState.STARTING
        self._settled.clear()
        session = self.session = Session(self.name, found.hypervisor, found.secret)
        session.started_with = record.started_with or "cold"
        session.start_seconds = record.start_seconds
        session.fingerprint = record.fingerprint
        self._on_link(session, False)
        self._tasks.start(self._watch(session), name="watch")
        self._adoption = self._tasks.start(self._finish_adoption(session, found.todo), name="adoption")

    async def let_go(self) -> None:
        """The agent ends: the machine goes on running."""
        await self._guardian.close()
        await self._tasks.close()
        if self.session is not None:
            session, self.session = self.session, None
            await self._on_down()
            await session.close()

    # -- the steps ---------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """True while a command, or a start of our own, is carried out."""
        return self._busy.locked()

    async def _call_off(self) -> None:
        """A person wants it to end: what we are at by ourselves does not keep them waiting."""
        await self._guardian.command(MachineState.STOPPING)
        task, self._adoption = self._adoption, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _doing(self, operation: MachineState, say: Say) -> AsyncIterator[None]:
        if self._busy.locked():
            say("wait", f"waiting: {self.name!r} is {self.operation or 'busy'}", None)
        async with self._busy:
            if self._deleted:
                raise ProaError(
                    "machine-unknown",
                    f"the machine {self.name!r} was deleted meanwhile",
                    hint=f"make and start a new one: proa start {self.name}",
                )
            self.operation = operation
            if operation in (MachineState.STARTING, MachineState.SUSPENDING):
                self._settled.clear()
            try:
                yield
            finally:
                self.operation = None
                self._settled.set()

    async def _start_or_fail(self, say: Say, by: str) -> None:
        """A start that a person asked for: where it fails they are told, and nothing goes on by itself."""
        config = self._read_config()  # what is wrong with it is a fact, and not remembered
        try:
            await self._start(config, say, by)
        except ProaError as error:
            self._memo.change(intent="stopped", problem=Problem.of(error))
            self._emit(
                EventKind.FAILED, "it did not start", done="told whoever asked", problem=Problem.of(error)
            )
            raise

    def _read_config(self) -> MachineConfig:
        if self._store.mend(self.name):
            self._emit(EventKind.REPAIR, "its config was missing", done="made anew with the defaults")
        return self._store.load(self.name)

    async def _start(self, config: MachineConfig, say: Say, by: str) -> None:
        """From its memory image where there is one that can be used, else cold."""
        began = time.monotonic()
        woken_by = by if self.suspended else ""
        awaited = bool(woken_by) and by != BY_HAND
        session = await self._restore(config, say, awaited) if self.sleeper.images.exists() else None
        if session is None:
            # Before the first step: an agent that dies in the middle is followed by one that goes on.
            self._memo.change(intent="running", boot_id=boot_id())
            session = await self._boot_and_bring_up(config, say)
        else:
            await self._bring_up(session, say)
        session.start_seconds = round(time.monotonic() - began, 2)
        how = f"woken by {woken_by}" if woken_by else "started"
        self._emit(EventKind.STATE, f"{how} in {session.start_seconds:.1f} s ({session.started_with})")
        self._memo.change(
            intent="running",
            boot_id=boot_id(),
            started_with=session.started_with,
            start_seconds=session.start_seconds,
            woken_by=woken_by or self._memo.record.woken_by,
            fingerprint=session.fingerprint,
        )
        self._tasks.start(asyncio.to_thread(self.sleeper.images.sweep), name="remove the used image")

    async def _boot_and_bring_up(self, config: MachineConfig, say: Say) -> Session:
        """Emulation at times breaks a kernel that patches itself (MEASURED.md): it is tried again, once."""
        session = await self._boot(config, say)
        try:
            await self._bring_up(session, say)
        except ProaError as error:
            if error.code != "guest-panicked" or session.hypervisor.accelerator != "tcg":
                raise
            say("kernel", "the guest's kernel gave up, booting it once more", None)
            done = "it is emulated, where that happens: booted once more"
            self._emit(EventKind.REPAIR, error.message, done=done, problem=Problem.of(error))
            session = await self._boot(config, say)
            await self._bring_up(session, say)
        return session

    async def _bring_up(self, session: Session, say: Say) -> None:
        try:
            await self._finish_start(session, say)
        except ProaError:
            await last_logs.keep(session, self.paths)
            await self._quit(session)
            raise

    async def _boot(self, config: MachineConfig, say: Say) -> Session:
        """From a config to a guest that runs; nothing is left where it fails."""
        session = self.session = await self._booter.boot(config, say)
        self._tasks.start(self._watch(session), name="watch")
        try:
            await session.hypervisor.resume()
        except ProaError:
            await self._quit(session)
            raise
        self._on_link(session, True)
        return session

    async def _restore(self, config: MachineConfig, say: Say, awaited: bool) -> Session | None:
        """From its memory image to a guest that runs, or None where the image cannot be used, and is gone."""
        try:
            session = await self._booter.restore(config, say, awaited=awaited)
        except MustBootCold as reason:
            say("memory", f"its memory image is dropped, and it boots cold: {reason}", None)
            self._emit(
                EventKind.REPAIR, f"its memory image cannot be used: {reason}", done="it is booted cold"
            )
            return None
        self.session = session
        self._tasks.start(self._watch(session), name="watch")
        return session

    async def _finish_start(self, session: Session, say: Say) -> None:
        """Wait for all layers, then let the engine's socket and the ports come up."""
        await readiness.wait_ready(
            session,
            session.hypervisor.accelerator,
            self.paths.console_log,
            lambda step, message: say(step, message, None),
        )
        engine = self._engine(lambda: session.pool.open("engine"))
        if not session.engine_version:
            session.engine_version = await engine.version()
        elif not (session.engine_answered or session.awaited):
            await engine.ping()  # a restored one: to ask for its version costs it processes
        await self._on_up(session)
        self._guardian.up(session)

    async def _heal(self, session: Session, say: Say) -> None:
        """Wait for an engine that is silent; a guest or hypervisor that hangs is ended. Raises ProaError."""
        problem = await self._guardian.hangs(session, say)
        if problem is not None:
            say(problem.layer, "it does not answer, ending it by force", None)
            await self._end_hung(session, problem)
            return
        await self._go_on(session, say)
        await self._finish_start(session, say)

    async def _go_on(self, session: Session, say: Say) -> None:
        """Let a guest that was paused for its disk try again. Raises ProaError `host-disk-full` …"""
        if await session.hypervisor.stall() is None:
            return
        say("hypervisor", "its disk could not be written, trying again", None)
        await session.hypervisor.resume()
        deadline = time.monotonic() + GO_ON_TIMEOUT
        while (stall := await session.hypervisor.stall()) is None and time.monotonic() < deadline:
            if await self._view.ping():
                return
            await asyncio.sleep(0.1)
        if stall is not None:
            room = free_disk(self.paths.folder)
            raise health.disk_problem(self.name, stall, str(self.paths.folder), room).error()

    async def _finish_adoption(self, session: Session, todo: tuple[Step, ...]) -> None:
        async with self._busy:
            try:
                if await session.hypervisor.stall() is None:
                    await adoption.mend(session, todo, self.paths, self.sleeper.images)
                    await self._finish_start(session, _quietly)
                else:
                    self._guardian.up(session)  # it sees to it, and lets it go on
            except ProaError as error:
                self._emit(EventKind.PROBLEM, "it was taken over, but is not well", problem=Problem.of(error))
                self._guardian.up(session)
            finally:
                self.operation = None
                self._settled.set()
        if self._memo.record.intent == "stopping" and self.session is session:
            # The agent before this one was at it when it died.
            await self.stop(_quietly)

    async def _stop(self, say: Say, *, cold: bool, force: bool) -> None:
        if self.session is None and self.suspended and not force:
            # Its containers are to be stopped as gracefully as those of a machine that runs.
            say("memory", "waking it, to stop its containers", None)
            await self._start(self._read_config(), say, "proa stop")
        warm = not (cold or force)
        if warm and self.session is not None and self.sleeper.can_save and not self._guardian.paused:
            try:
                await self._stop_warm(self.session, say)
                return
            except ProaError as error:
                say("memory", f"its memory cannot be kept, powering off: {error}", None)
                log.warning("%s: cannot be stopped warm: %s", self.name, error)
        if self.session is None and warm and self.sleeper.images.exists():
            return  # it was stopped so already
        await asyncio.to_thread(self.sleeper.images.drop)
        await self._end(say, force=force)
        await self._on_down()  # the ports of one that slept

    async def _stop_warm(self, session: Session, say: Say) -> None:
        """Raises ProaError, and the machine runs, with its containers stopped or not."""
        if not session.control.can_sleep or not await self._view.ping():
            raise ProaError("engine-silent", "the guest or its engine does not answer", layer="engine")
        # Before the first step: whatever becomes of this agent, the next one does not start it again.
        self._memo.change(intent="stopping", boot_id=boot_id())
        bound = POWER_OFF_TIMEOUT.seconds(session.hypervisor.accelerator)
        say("engine", "stopping containers", None)
        await session.control.order({"op": "halt", "timeout": bound}, bound + HALT_MARGIN)
        await last_logs.keep(session, self.paths)
        say("memory", "saving its memory", None)
        await self._save(session, "stopped")

    async def _save(self, session: Session, kind: Kind) -> None:
        """Save the session and end it. Raises ProaError, and it runs on unless its hypervisor is gone."""
        ports = self._ports() if kind == "suspended" else ()
        # Who watches the engine lets go first: it would only see its connections break.
        await (self._on_asleep() if kind == "suspended" else self._on_down())
        try:
            await self.sleeper.save(session, kind, ports)
        except ProaError as error:
            if session.hypervisor.ended.done():
                await self._quit(session)
                self._memo.change(problem=Problem.of(error))
                self._ended(Problem.of(error))
            elif kind == "suspended":
                await self._on_up(session)
            raise
        self.session = None
        self._memo.change(intent="stopped", boot_id=boot_id())
        self._emit(EventKind.STATE, kind)
        await session.close()

    async def _end(self, say: Say, *, force: bool) -> None:
        session = self.session
        # Before the first step: whatever becomes of this agent, the next one does not start it again.
        self._memo.change(intent="stopping" if session is not None else "stopped", boot_id=boot_id())
        if session is None:
            await self._end_stray()
            return
        if not force and not self._guardian.paused:  # a paused guest hears nothing
            say("guest-agent", "powering off", None)
            await last_logs.keep(session, self.paths)
            await session.power_off()
        await self._quit(session)
        self._memo.change(intent="stopped")
        self._emit(EventKind.STATE, "stopped by force" if force else "stopped")

    async def _end_stray(self) -> None:
        """End a hypervisor that could not be taken over, if there is one."""
        if self._store.is_alive(self.name):
            await self._driver.end_stray(self.name, self.paths.runtime, self.paths.lock)

    async def _quit(self, session: Session) -> None:
        if self.session is session:
            self.session = None
            await self._on_down()
        await session.hypervisor.quit()
        await session.close()

    async def end_hung(self, session: Session, problem: Problem) -> None:
        """The last resort for a guest or a hypervisor that does not answer: end it, start it again."""
        async with self._busy:
            if self.session is not session:
                return
            await self._end_hung(session, problem)
        self._ended(problem)

    async def _end_hung(self, session: Session, problem: Problem) -> None:
        self._emit(EventKind.REPAIR, problem.message, done="it is ended by force", problem=problem)
        await self._quit(session)
        self._memo.change(problem=problem)

    async def _watch(self, session: Session) -> None:
        """See the hypervisor's end within a moment, and say why."""
        reason = await asyncio.shield(session.hypervisor.ended)
        async with self._busy:  # whoever is at work sees it too, and may be about to deal with it
            if self.session is not session:
                return
            self.session = None
            problem = Problem.of(readiness.ended(reason, self.paths.console_log))
            if reason is ExitReason.DIED and problem.code == "hypervisor-died":
                problem = died(self.name)
            await self._on_down()
            await session.close()
            if reason is ExitReason.POWER_OFF or self._memo.record.intent == "stopping":
                self._memo.change(intent="stopped")
                self._emit(EventKind.STATE, problem.message, done="it stays stopped")
                return
            self._memo.change(problem=problem)
        self._ended(problem)

    def _miss(self) -> None:
        """No hypervisor is there: was one to be?"""
        record = self._memo.record
        if self.sleeper.images.exists():
            if record.intent != "stopped":
                self._memo.change(intent="stopped")  # an agent died when it had just saved it: it sleeps
        elif record.intent == "running" and record.boot_id == boot_id():
            self._ended(record.problem or died(self.name))
        elif record.intent == "running":
            problem = rebooted(self.name)
            self._memo.change(intent="stopped", problem=problem)
            self._emit(
                EventKind.STATE, problem.message, done="it is stopped until it is started", problem=problem
            )
        elif record.intent == "stopping":
            self._memo.change(intent="stopped")

    def _ended(self, problem: Problem) -> None:
        if self._memo.record.intent == "running":
            self._guardian.ended(problem)


def _quietly(step: str, message: str, fraction: float | None) -> None:
    """Nobody waits for a start that we make by ourselves; its end is an event."""


def _cannot_suspend(driver: str) -> ProaError:
    return ProaError(
        "cannot-suspend",
        "this machine cannot be suspended",
        why=f"the driver {driver} saves no memory on this system, or the guest is of an earlier Proa",
        hint="proa stop powers it off",
    )
