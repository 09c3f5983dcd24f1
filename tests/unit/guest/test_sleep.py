"""Freezing: which groups, how long, and that they never stay frozen."""

from __future__ import annotations

from pathlib import Path

import pytest

from proa_guest import outside, sleep, wire
from proa_guest.containers import Containers
from proa_guest.sleep import Sleeper


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("docker", "user", "services"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.freeze").write_text("0")
        (tmp_path / name / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    (tmp_path / "cgroup.procs").touch()
    monkeypatch.setattr(sleep, "_own_groups", lambda: {"services", ""})
    return tmp_path


@pytest.fixture
def sleeper(groups: Path) -> Sleeper:
    return Sleeper(Containers("/nowhere"), str(groups))


def frozen(groups: Path) -> set[str]:
    return {path.parent.name for path in groups.glob("*/cgroup.freeze") if path.read_text() == "1"}


def test_containers_stand_still_and_our_own_services_do_not(groups: Path, sleeper: Sleeper) -> None:
    assert sleeper.freeze({}) == {"late": []}
    assert frozen(groups) == {"docker", "user"}
    sleeper.orders()["thaw"]({})
    assert frozen(groups) == set()


def test_one_that_does_not_stand_still_is_named_in_time(
    groups: Path, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sleep, "FREEZE_TIMEOUT", 0.05)
    (groups / "user/cgroup.events").write_text("populated 1\nfrozen 0\n")
    assert sleeper.freeze({}) == {"late": ["user"]}
    (groups / "user/cgroup.events").write_text("populated 0\nfrozen 0\n")
    assert sleeper.freeze({}) == {"late": []}, "an empty group has nothing to wait for"


def test_a_group_that_ends_meanwhile_is_fine(groups: Path, sleeper: Sleeper) -> None:
    for name in ("cgroup.freeze", "cgroup.events"):
        (groups / "user" / name).unlink()
    (groups / "user").rmdir()
    assert sleeper.freeze({}) == {"late": []}


def test_containers_that_stand_still_are_due(groups: Path, sleeper: Sleeper) -> None:
    assert sleeper.due(), "an agent before this one may have frozen some"
    sleeper.freeze({})
    assert sleeper.due()
    assert frozen(groups) == {"docker", "user"}, "they wait for their order"


def test_groups_without_containers_are_thawed_without_an_order(groups: Path, tmp_path: Path) -> None:
    note = tmp_path / "note"
    sleeper = Sleeper(Containers("/nowhere", note=str(note)), str(groups))
    sleeper.freeze({})
    (groups / "docker/cgroup.events").write_text("populated 0\nfrozen 1\n")
    (groups / "user/cgroup.events").unlink()
    (groups / "user/cgroup.freeze").unlink()
    assert not sleeper.due()
    assert frozen(groups) == set()
    note.touch()
    assert sleeper.due(), "some are to be brought back"


def test_what_leads_outside_is_found_while_containers_stand_still(
    sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ended after the wake, without another look, unless the engine made a namespace since."""
    made: list[str] = ["one"]
    monkeypatch.setattr(outside, "_engines", lambda: list(made))
    monkeypatch.setattr(outside, "end_here", lambda: 1)
    monkeypatch.setattr(outside, "find_elsewhere", lambda: found.append(_Elsewhere()) or found[-1])
    monkeypatch.setattr(sleep, "mend_clock_and_pool", lambda content: None)
    found: list[_Elsewhere] = []
    everywhere: dict[str, object] = {"everywhere": True}
    sleeper.freeze({})
    assert found == [] and sleeper.goes_elsewhere(everywhere)
    sleeper.freeze(everywhere)
    assert len(found) == 1 and sleeper.goes_elsewhere(everywhere)
    assert not sleeper.goes_elsewhere({"everywhere": False})
    assert (sleeper.mend(everywhere, elsewhere=True), len(found)) == (1 + 2, 1)
    made.append("two")
    assert (sleeper.mend(everywhere, elsewhere=True), len(found), found[0].closed) == (1 + 2, 2, True)
    sleeper.orders()["thaw"]({})
    assert found[1].closed, "containers may connect to anywhere from here on"
    assert (sleeper.mend(everywhere, elsewhere=True), len(found)) == (1 + 2, 3)


class _Elsewhere(outside.Elsewhere):
    """Two connections."""

    closed = False

    def __len__(self) -> int:
        return 2

    def end(self) -> int:
        assert not self.closed
        return 2

    def close(self) -> None:
        self.closed = True


def test_what_nobody_thaws_thaws_by_itself(groups: Path, sleeper: Sleeper) -> None:
    sleeper.freeze({})
    sleeper.forgotten()
    assert frozen(groups) == set()


def test_a_restored_guest_thaws_what_an_earlier_agent_froze(groups: Path, sleeper: Sleeper) -> None:
    """The guest's agent may have been started again between: it knows nothing of a freeze."""
    sleeper.freeze({})
    Sleeper(Containers("/nowhere"), str(groups)).orders()["thaw"]({})
    assert frozen(groups) == set()


@pytest.mark.parametrize("timeout", [None, 0, -1, "5", 1e9])
def test_a_halt_without_a_bound_is_refused(sleeper: Sleeper, timeout: object) -> None:
    with pytest.raises(wire.WireError):
        sleeper.orders()["halt"]({"timeout": timeout})


@pytest.mark.parametrize(
    "content", [{}, {"time": "now", "seed": "00"}, {"time": -1, "seed": "00"}, {"time": 1e6, "seed": 5}]
)
def test_a_wake_without_time_or_seed_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(wire.WireError):
        sleep.mend_clock_and_pool(content)
