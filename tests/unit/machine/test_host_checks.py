from __future__ import annotations

import os
from pathlib import Path

import pytest

from proa.machine import host_checks
from proa.model.errors import ProaError
from proa.model.machine import MachineConfig
from proa.model.sizes import MIB
from proa.system.memory import total_memory
from proa.system.paths import Places


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"memory": total_memory() + MIB}, "memory-too-large"),
        ({"memory": 1 * MIB}, "memory-too-small"),
        ({"disk": 1 * MIB}, "disk-too-small"),
        ({"cpus": (os.cpu_count() or 1) + 1}, "too-many-cpus"),
    ],
)
def test_what_the_host_cannot_give_is_refused_with_the_way_out(change: dict[str, int], code: str) -> None:
    with pytest.raises(ProaError) as caught:
        host_checks.check_sizes(MachineConfig(name="m", **change))  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.usage, len(caught.value.lines)) == (code, True, 3)


def test_the_defaults_are_fine_here() -> None:
    host_checks.check_sizes(MachineConfig(name="m"))


def test_a_full_disk_is_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks, "free_disk", lambda path: 10 * MIB)
    with pytest.raises(ProaError) as caught:
        host_checks.check_room(Places.current({"PROA_HOME": str(tmp_path)}))
    assert caught.value.code == "disk-full"
    assert "10 MiB" in caught.value.why
