"""How a running machine is, and what is done about it: scripts of looks."""

from __future__ import annotations

import msgspec
import pytest

from proa.drivers.base import Stall
from proa.link.control import DiskStatus, EngineStatus, GuestStatus, MemoryStatus, ServiceStatus
from proa.machine.health import (
    HUNG,
    INTERVAL,
    LEAST_ROOM,
    MOST_RETRY,
    OOM_SHOWN,
    SILENT_AFTER,
    Action,
    GoOn,
    Health,
    Look,
    Restart,
    Say,
    SetClock,
    memory_notice,
    news,
    notice,
    patience,
    silence,
)
from proa.model.events import EventKind as K
from proa.model.problem import LAYERS


class Script:
    """Looks every INTERVAL seconds."""

    def __init__(self, accelerator: str = "kvm") -> None:
        self.health = Health("m", accelerator, "/disk/m")
        self.now = 1000.0

    def look(self, seconds: float = INTERVAL, **found: object) -> list[Action]:
        """Look for that long; all actions."""
        done: list[Action] = []
        end = self.now + seconds
        while self.now < end:
            self.now += INTERVAL
            done += self.health.look(Look(now=self.now, **found))  # type: ignore[arg-type]
        return done


def _kinds(actions: list[Action]) -> list[object]:
    return [action.kind if isinstance(action, Say) else type(action) for action in actions]


def test_a_machine_that_is_well_is_left_alone() -> None:
    script = Script()
    assert script.look(3600) == []
    assert script.health.problem is None


def test_a_full_disk_is_said_once_and_the_guest_goes_on_when_there_is_room() -> None:
    script = Script()
    script.look(10)
    (said,) = script.look(600, stall=Stall.NO_SPACE, room=LEAST_ROOM - 1)
    assert isinstance(said, Say) and said.kind is K.PROBLEM and said.problem is not None
    assert (said.problem.code, said.problem.layer) == ("host-disk-full", "hypervisor")
    assert "/disk/m" in said.problem.why and "63 MiB free" in said.problem.why
    assert script.health.paused and script.health.problem == said.problem
    assert script.look(stall=Stall.NO_SPACE, room=LEAST_ROOM) == [GoOn()]
    assert _kinds(script.look()) == [K.REPAIR]
    assert script.health.problem is None and not script.health.paused


def test_a_disk_that_fails_is_tried_again_more_and_more_seldom() -> None:
    script = Script()
    actions = script.look(600, stall=Stall.FAILED)
    assert _kinds(actions[:1]) == [K.PROBLEM]
    assert set(map(type, actions[1:])) == {GoOn}
    assert 600 / MOST_RETRY - 2 <= len(actions) <= 600 / MOST_RETRY + 8


@pytest.mark.parametrize(("off", "word"), [(0.4, None), (-3.0, ""), (90.0, "ahead"), (-90.0, "behind")])
def test_a_clock_that_is_wrong_is_set(off: float, word: str | None) -> None:
    actions = Script().look(clock_off=off)
    assert (SetClock() in actions) == (word is not None)
    said = [action.message for action in actions if isinstance(action, Say)]
    assert [word in message for message in said] == ([True] if word else [])


def test_a_paused_guest_is_never_taken_for_a_hung_one() -> None:
    script = Script()
    script.look(10)
    actions = script.look(5000, stall=Stall.NO_SPACE, guest_answers=False)
    assert _kinds(actions) == [K.PROBLEM]
    assert _kinds(script.look(guest_answers=False)) == [K.REPAIR], "it goes on; its silence begins now"
    assert script.look(SILENT_AFTER - INTERVAL, guest_answers=False) == []


def test_a_silent_guest_is_said_then_restarted() -> None:
    script = Script()
    script.look(10)
    actions = script.look(HUNG.hardware + INTERVAL, guest_answers=False)
    assert _kinds(actions) == [K.PROBLEM, Restart]
    (_, last) = actions
    assert isinstance(last, Restart) and last.problem.code == "guest-agent-silent"
    assert last.problem.layer == "guest-agent"


def test_under_emulation_it_has_longer() -> None:
    script = Script("tcg")
    script.look(10)
    assert _kinds(script.look(HUNG.hardware * 2, guest_answers=False)) == [K.PROBLEM]


def test_a_hypervisor_that_hangs_is_named_and_not_its_guest() -> None:
    script = Script()
    script.look(10)
    (said,) = script.look(20, hypervisor_answers=False)
    assert isinstance(said, Say) and said.problem is not None
    assert (said.problem.code, said.problem.layer) == ("hypervisor-silent", "hypervisor")
    assert _kinds(script.look()) == [K.REPAIR]


def test_while_somebody_waits_a_silent_hypervisor_has_less_time_than_a_silent_guest() -> None:
    mute, deaf = Look(now=1.0, hypervisor_answers=False), Look(now=1.0, guest_answers=False)
    for look, layer in ((mute, "hypervisor"), (deaf, "guest-agent")):
        problem = silence("m", look)
        assert problem is not None and problem.layer == layer
    for accelerator in ("kvm", "tcg"):
        assert patience(mute, accelerator) < patience(deaf, accelerator) < HUNG.seconds(accelerator)
        # A guest agent that hangs is ended by the guest's init after that time.
        assert patience(deaf, accelerator) > 30
    assert silence("m", Look(now=1.0)) is None
    assert silence("m", Look(now=1.0, stall=Stall.NO_SPACE)) is None


def test_a_short_silence_is_nothing() -> None:
    script = Script()
    for _ in range(50):
        assert script.look(SILENT_AFTER - INTERVAL, guest_answers=False) == []
        assert script.look() == []


def test_a_host_that_slept_has_heard_no_silence() -> None:
    script = Script()
    script.look(10)
    for _ in range(2):
        script.now += 10_000
        assert script.look(guest_answers=False) == []


WELL = GuestStatus(
    uptime=100,
    services={name: ServiceStatus("ready") for name in ("agent", "containerd", "dockerd")},
    disk=DiskStatus("ready"),
    engine=EngineStatus("ready"),
)


def _changed(**changes: object) -> GuestStatus:
    return msgspec.structs.replace(WELL, uptime=110, **changes)


def test_what_the_guest_did_itself_is_told_with_its_reason() -> None:
    services = {
        **WELL.services,
        "dockerd": ServiceStatus("starting", 1, 1, "", "dockerd was ended by signal 9"),
    }
    (said,) = news("m", WELL, _changed(services=services))
    assert (said.kind, said.message, said.done) == (
        K.REPAIR,
        "dockerd was ended by signal 9",
        "dockerd is started again",
    )
    assert news("m", _changed(services=services), _changed(services=services)) == []


def test_out_of_memory_is_named_once_and_shown_for_a_while() -> None:
    after = _changed(memory=MemoryStatus(1, "java (pid 9, container 0123456789ab)", 105))
    (said,) = news("m", WELL, after)
    assert said.kind is K.PROBLEM and "java (pid 9" in said.done
    assert said.problem is not None and said.problem.code == "guest-out-of-memory"
    assert said.problem.layer in LAYERS and said.problem.hint
    assert memory_notice("m", after, 0) == said.problem
    assert memory_notice("m", after, OOM_SHOWN) is None
    assert memory_notice("m", WELL, 0) is None


def test_engine_and_disk_are_told_when_they_change() -> None:
    silent = _changed(engine=EngineStatus("silent"))
    assert [said.kind for said in news("m", WELL, silent)] == [K.PROBLEM]
    assert [said.kind for said in news("m", silent, _changed())] == [K.REPAIR]
    assert [said.message for said in news("m", WELL, _changed(disk=DiskStatus("full", "40 MiB left")))] == [
        "40 MiB left"
    ]


def test_a_first_word_and_another_boot_are_no_news() -> None:
    later = _changed(services={"dockerd": ServiceStatus("ready", 3)})
    assert news("m", None, later) == []
    assert news("m", later, WELL) == []


@pytest.mark.parametrize("state", ("silent", "backoff", "starting"))
def test_a_containerd_that_is_away_is_named_though_the_engine_answers(state: str) -> None:
    status = _changed(services={**WELL.services, "containerd": ServiceStatus(state)})
    problem = notice("m", status, 0)
    assert problem is not None and (problem.code, problem.layer) == ("containerd-silent", "containerd")
    assert notice("m", WELL, 0) is None
    coming_up = msgspec.structs.replace(status, engine=EngineStatus("starting"))
    assert notice("m", coming_up, 0) is None, "it has not been there yet"
