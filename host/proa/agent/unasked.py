"""Starts that no command asked for: at login, and by the first request after the host came up again."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from proa.agent import at_login
from proa.machine.due import Due, due
from proa.machine.machine import Machine
from proa.machine.store import MachineStore
from proa.model.errors import ProaError
from proa.system.processes import boot_id
from proa.system.tasks import Tasks

log = logging.getLogger("proa.agent")


class UnaskedStart:
    """At most one such start a machine and agent; a command of the user's comes first."""

    def __init__(self, machine: Machine, store: MachineStore, tasks: Tasks) -> None:
        self._machine = machine
        self._store = store
        self._tasks = tasks
        self._due = Due.NO
        self._task: asyncio.Task[None] | None = None

    def note(self) -> None:
        """See what is due, before what an earlier boot of the host left is tidied up."""
        try:
            wanted = self._store.load(self._machine.name).setting(at_login.KEY)
        except ProaError:
            return  # `proa status` says what is wrong with its config
        self._due = due(self._store.record(self._machine.name), at_login=wanted, boot=boot_id())

    def at_login(self) -> None:
        """Start a machine that starts at login, in the background."""
        if self._is_due(Due.NOW):
            self._begin("it starts at login")

    async def on_request(self) -> None:
        """Start a machine that is due, and wait until it is up; one whose start failed says so itself."""
        if self._is_due(Due.NOW, Due.ON_REQUEST):
            self._begin("it ran when the host went down, and is used again")
        if self._task is not None:
            # Whoever asked may leave; others wait as well.
            await asyncio.shield(self._task)

    async def stop_until_used(self) -> None:
        """Suspend it, or stop it in order: the first request of the next session brings it back."""
        name = self._machine.name

        def say(step: str, message: str, fraction: float | None) -> None:
            log.info("%s: %s", name, message)

        try:
            await self._machine.suspend(say)
            return
        except ProaError as error:
            log.info("%s: is stopped, as it cannot be suspended: %s", name, error)
        try:
            await self._machine.stop(say)
        except ProaError as error:
            log.warning("%s: was not stopped in order: %s", name, error)
        # Not of this boot: that would make it one that the user stopped.
        record = msgspec.structs.replace(self._store.record(name), intent="running", boot_id="")
        self._store.keep_record(name, record)

    def _is_due(self, *when: Due) -> bool:
        # A start or a stop of this boot, which the record tells, makes it the user's business again.
        return (
            self._due in when
            and self._machine.session is None
            and self._store.record(self._machine.name).boot_id != boot_id()
        )

    def _begin(self, why: str) -> None:
        self._due = Due.NO
        self._task = self._tasks.start(self._start(why), name="start unasked")

    async def _start(self, why: str) -> None:
        name = self._machine.name
        log.info("%s: starting: %s", name, why)
        try:
            await self._machine.start(lambda step, message, fraction: log.info("%s: %s", name, message))
        except ProaError as error:
            log.warning("%s: did not start: %s", name, error)
        finally:
            self._task = None
