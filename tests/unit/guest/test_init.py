"""What process 1 says before it knows better."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from proa_guest import init as module
from proa_guest.init import DOCKERD_SLACK, Init
from proa_guest.supervisor import Service


def test_a_disk_that_is_still_being_checked_is_not_called_missing() -> None:
    """A journal that is replayed takes its time, and the host gives a machine without a disk up at once."""
    init = Init()
    assert (init.disk["state"], init.network["state"]) == ("starting", "starting")


@pytest.mark.parametrize(("name", "emulated", "slack"), [
    ("dockerd", True, DOCKERD_SLACK), ("dockerd", False, 50_000), ("containerd", True, 50_000),
])  # fmt: skip
def test_only_the_emulated_engine_may_pause_for_longer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, emulated: bool, slack: int
) -> None:
    """What containerd may, its containers may too."""
    monkeypatch.setattr(module, "LOGS", str(tmp_path))
    init = Init()
    init._emulated = emulated
    service = Service(name, ["sleep", "60"])
    init._start(service)
    try:
        assert int(Path(f"/proc/{service.pid}/timerslack_ns").read_text()) == slack
    finally:
        os.kill(service.pid, signal.SIGKILL)
        os.waitpid(service.pid, 0)
