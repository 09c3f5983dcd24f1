"""Which machine is to be started without a command that asks for it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from proa.machine.lifecycle import REBOOTED

if TYPE_CHECKING:
    from proa.machine.store import MachineRecord


class Due(enum.Enum):
    NO = "no"
    ON_REQUEST = "on request"  # by the first request on its engine socket
    NOW = "now"  # as soon as the agent is up


def due(record: MachineRecord, *, at_login: bool, boot: str) -> Due:
    """When to start a machine that does not run; `boot` is the host's boot (empty: the system tells none).

    What was started or stopped in this boot stays as the user left it. A machine whose setting says so
    starts at login; one that was running when the host went down starts when it is first used, for the
    user never stopped it. Everything else stays stopped.
    """
    if not boot or record.boot_id == boot:
        return Due.NO
    if at_login:
        return Due.NOW
    ran = record.intent == "running" or (record.problem is not None and record.problem.code == REBOOTED)
    return Due.ON_REQUEST if ran else Due.NO
