"""What a machine remembers, also on a disk that takes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from proa.machine.memo import Memo
from proa.machine.store import MachineStore
from proa.model.errors import ProaError
from proa.model.machine import MachineOptions
from proa.model.problem import Problem
from proa.system.paths import Places

PROBLEM = Problem(code="guest-panicked", message="x")


@pytest.fixture
def store(tmp_path: Path) -> MachineStore:
    places = Places.current({"PROA_HOME": str(tmp_path / "h")})
    places.make()
    store = MachineStore(places)
    store.create(store.plan("m", MachineOptions()))
    return store


def test_the_next_agent_knows_and_a_problem_is_forgotten_by_the_next_change(store: MachineStore) -> None:
    memo = Memo(store, "m")
    memo.change(intent="stopped", problem=PROBLEM)
    assert Memo(store, "m").record.problem == PROBLEM
    memo.change(intent="running", boot_id="b")
    record = Memo(store, "m").record
    assert (record.intent, record.boot_id, record.problem) == ("running", "b", None)


def test_a_disk_that_takes_nothing_does_not_hinder_a_stop(
    store: MachineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    memo = Memo(store, "m")
    memo.change(intent="running")

    def full(name: str, record: object) -> None:
        raise ProaError("disk-full", "cannot write")

    monkeypatch.setattr(store, "keep_record", full)
    memo.change(intent="stopped")
    assert memo.record.intent == "stopped"


def test_a_machine_that_was_deleted_is_not_made_again_by_its_record(store: MachineStore) -> None:
    memo = Memo(store, "m")
    store.delete("m")
    memo.change(intent="stopped")
    assert not store.exists("m")
