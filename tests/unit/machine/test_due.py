from __future__ import annotations

from typing import Literal

import pytest

from proa.machine.due import Due, due
from proa.machine.lifecycle import rebooted
from proa.machine.store import MachineRecord


@pytest.mark.parametrize(
    ("intent", "of_boot", "at_login", "boot", "expected"),
    [
        ("running", "earlier", False, "now", Due.ON_REQUEST),  # it ran when the host went down
        ("stopped", "earlier", False, "now", Due.NO),  # a stopped machine stays stopped
        ("stopped", "earlier", True, "now", Due.NOW),  # the setting
        ("running", "earlier", True, "now", Due.NOW),
        ("stopped", "now", True, "now", Due.NO),  # `proa stop` since the host came up
        ("running", "now", True, "now", Due.NO),  # it died in this boot: another's concern
        ("stopped", "", True, "now", Due.NOW),  # never started yet
        ("stopped", "", False, "now", Due.NO),
        ("running", "", False, "", Due.NO),  # a system that does not tell its boots apart
        ("stopped", "earlier", True, "", Due.NO),
    ],
)
def test_who_is_due(
    intent: Literal["running", "stopped"], of_boot: str, at_login: bool, boot: str, expected: Due
) -> None:
    record = MachineRecord(intent=intent, boot_id=of_boot)
    assert due(record, at_login=at_login, boot=boot) is expected


def test_what_ran_when_the_host_went_down_stays_due_until_it_is_used() -> None:
    """An agent that came between has said so already, and left the machine stopped."""
    record = MachineRecord(intent="stopped", boot_id="earlier", problem=rebooted("default"))
    assert due(record, at_login=False, boot="now") is Due.ON_REQUEST
