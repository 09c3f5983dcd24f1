"""The real agent, told to die, to kill its hypervisor, or to fail, at one step of a save or a restore.

    python -m tests.support.faulty_agent HOW STEP WHEN

HOW: `agent` (SIGKILL to itself), `hypervisor` (SIGKILL to QEMU), `ENOSPC`, `EIO` (the step's own failure).
STEP: a name of proa.machine.sleep.order.Step. WHEN: `before` or `after` the step had its effect.
Once: whatever comes after that goes well.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from proa.agent.main import main
from proa.drivers.base import BootSpec
from proa.machine.sleep import sleeper
from proa.machine.sleep.order import Step
from proa.system.files import explain
from tests.support.homes import hypervisors

Work = Callable[[], Awaitable[None]]


class Fault:
    """One fault, and the steps wrapped in it."""

    def __init__(self, how: str, step: Step, when: str) -> None:
        self.how = how
        self.step = step
        self.when = when
        self.pending = True

    def strike(self) -> None:
        self.pending = False
        if self.how == "agent":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "hypervisor":
            for pid in hypervisors(Path(os.environ["PROA_HOME"])):
                os.kill(pid, signal.SIGKILL)
        else:
            number = getattr(errno, self.how)
            raise explain(OSError(number, os.strerror(number)), f"{self.step}, as the test wants it")

    def wrap(self, work: Work) -> Work:
        async def wrapped() -> None:
            if self.pending and self.when == "before":
                self.strike()
            await work()
            if self.pending and self.when == "after":
                self.strike()

        return wrapped


def install(fault: Fault) -> None:
    """Wrap the step in both orders."""
    saving, restoring = sleeper._Saving.steps, sleeper.Sleeper._restoring

    def wrapped_saving(self: sleeper._Saving) -> sleeper.Do:
        steps = dict(saving(self))
        return {**steps, fault.step: fault.wrap(steps[fault.step])} if fault.step in steps else steps

    def wrapped_restoring(
        self: sleeper.Sleeper, to: sleeper._Restoring, spec: BootSpec, fingerprint: dict[str, str]
    ) -> sleeper.Do:
        steps = dict(restoring(self, to, spec, fingerprint))
        return {**steps, fault.step: fault.wrap(steps[fault.step])} if fault.step in steps else steps

    sleeper._Saving.steps = wrapped_saving  # type: ignore[method-assign]
    sleeper.Sleeper._restoring = wrapped_restoring  # type: ignore[method-assign]


if __name__ == "__main__":
    how, step, when = sys.argv[1:4]
    install(Fault(how, Step[step], when))
    sys.exit(main())
