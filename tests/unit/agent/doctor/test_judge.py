from __future__ import annotations

from typing import Any

import pytest

from proa.agent.doctor import judge
from proa.agent.doctor.judge import Target
from proa.drivers.base import DriverInfo
from proa.link.control import DiskStatus, GuestStatus, ServiceStatus
from proa.model.api import SharedFolder, SharesStatus
from proa.model.doctor import CheckState
from proa.model.machine import EngineInfo, MachineState, MachineStatus, PublishedPort
from proa.model.problem import Problem

OK, WARN, FAIL, SKIP = CheckState.OK, CheckState.WARN, CheckState.FAIL, CheckState.SKIP
PROBLEM = Problem(code="x", message="it broke", why="because", hint="mend it")


def _status(state: MachineState, **more: Any) -> MachineStatus:
    return MachineStatus(name="work", state=state, engine=EngineInfo(version="26.1"), **more)


RUNNING = _status(MachineState.RUNNING, pid=5)


def test_acceleration_says_why_it_is_not_used() -> None:
    slow = judge.acceleration(DriverInfo("7.2", "tcg", "there is no /dev/kvm"))
    assert slow.state is WARN and "no /dev/kvm" in slow.message
    assert judge.acceleration(DriverInfo("7.2", "kvm", "it booted a kernel")).state is OK
    assert judge.acceleration(DriverInfo("7.2", "", "")).state is SKIP
    assert judge.acceleration(None).state is SKIP


def test_what_is_in_a_guest_is_looked_at_only_where_there_is_one() -> None:
    assert judge.not_running(RUNNING) is None
    assert judge.not_running(_status(MachineState.BROKEN, pid=5)) is None
    for status in (None, *map(_status, (MachineState.ABSENT, MachineState.STOPPED, MachineState.BROKEN))):
        verdict = judge.not_running(status)
        assert verdict is not None and verdict.state is SKIP


def test_guest_agent() -> None:
    told = GuestStatus(agent="1", uptime=7300.0)
    well = judge.guest_agent(RUNNING, told, True)
    assert well.state is OK and "2 h" in well.message
    assert judge.guest_agent(RUNNING, told, False).state is FAIL
    assert judge.guest_agent(RUNNING, None, False).state is FAIL
    assert judge.guest_agent(None, None, False).state is SKIP


def test_engine() -> None:
    assert judge.engine(RUNNING, GuestStatus()).state is OK
    full = GuestStatus(disk=DiskStatus("full", "", 10, 0))
    assert judge.engine(RUNNING, full).state is WARN
    little = GuestStatus(disk=DiskStatus("ready", "", 20 << 30, 5 << 20))
    assert "5 MiB" in judge.engine(RUNNING, little).message
    restarted = GuestStatus(services={"dockerd": ServiceStatus("ready", 2)})
    assert judge.engine(RUNNING, restarted).state is WARN
    broken = judge.engine(_status(MachineState.BROKEN, problem=PROBLEM), None)
    assert (broken.state, broken.message, broken.hint) == (FAIL, "it broke: because", "mend it")
    assert "proa start work" in judge.engine(_status(MachineState.STOPPED), None).hint
    assert judge.engine(None, None).state is SKIP


@pytest.mark.parametrize(
    ("guest", "state", "word"),
    [
        (100.5, OK, "agrees"),
        (99.1, OK, "agrees"),  # within a second
        (102.9, OK, "agrees"),
        (98.5, FAIL, "1.5 s behind"),
        (103.5, FAIL, "1.5 s ahead"),
        (0.0, FAIL, "behind"),
    ],
)
def test_clock(guest: float, state: CheckState, word: str) -> None:
    """Asked at 100, answered at 102: any time between them is right."""
    verdict = judge.clock(100.0, guest, 102.0)
    assert verdict.state is state and word in verdict.message


def test_targets_are_where_the_engine_connects_to() -> None:
    index = {"IndexServerAddress": "https://index.example/v1/"}
    assert judge.targets(index) == (Target("the registry", "index.example", 443),)
    mirrors = {**index, "RegistryConfig": {"Mirrors": ["http://10.0.2.2:5000/", "https://m.example"]}}
    assert judge.targets(mirrors) == (
        Target("the mirror", "10.0.2.2", 5000),
        Target("the mirror", "m.example", 443),
    )
    proxied = {**mirrors, "HttpsProxy": "http://u:p@proxy.example:3128"}
    assert judge.targets(proxied) == (Target("the proxy", "proxy.example", 3128),)


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"IndexServerAddress": 5},
        {"RegistryConfig": {"Mirrors": "x"}},
        {"IndexServerAddress": "http://[::1"},
        {"RegistryConfig": {"Mirrors": [None, "http://h:99999999"]}},
    ],
)
def test_an_engine_may_say_anything(info: dict[str, Any]) -> None:
    assert judge.targets(info) == ()


def test_names_and_outward_are_warnings_with_words() -> None:
    target = Target("the registry", "index.example", 443)
    assert judge.names(None, "").state is SKIP
    assert judge.names(target, "").state is OK
    assert judge.names(target, "no such name").state is WARN
    assert judge.outward([]).state is SKIP
    assert judge.outward([(target, "")]).state is OK
    blocked = judge.outward([(target, ""), (target, "refused")])
    assert blocked.state is WARN and "refused" in blocked.message
    assert Target("x", "10.0.2.2", 1).is_address and Target("x", "::1", 1).is_address
    assert not target.is_address


def test_shares() -> None:
    def told(**changes: Any) -> SharesStatus:
        folder = SharedFolder(path="/home/me", writable=True, problem=changes.pop("missing", ""))
        return SharesStatus(**{"folders": (folder,), "mounted": True, "watches": 7, **changes})

    fine = judge.shares(told(), 0.012)
    assert fine.state is OK and "12 ms" in fine.message and "7 of them" in fine.message
    assert judge.shares(told(), None).state is FAIL
    assert judge.shares(told(mounted=False), None).state is FAIL
    limit = judge.shares(told(problem="fs.inotify.max_user_watches: the system's limit is reached"), 0.01)
    assert limit.state is WARN and "max_user_watches" in limit.message
    assert judge.shares(told(missing="it is not there"), 0.01).state is WARN


def test_ports() -> None:
    bound = PublishedPort(machine="m", container="c", host_ip="127.0.0.1", host_port=80, container_port=80)
    taken = PublishedPort(
        machine="m", container="c", host_ip="0.0.0.0", host_port=81, container_port=80, problem=PROBLEM
    )
    assert judge.ports(()).state is OK
    assert judge.ports((bound,)).state is OK
    verdict = judge.ports((bound, taken, taken))
    assert (verdict.state, verdict.hint) == (WARN, "mend it")
    assert "1 more" in verdict.message


@pytest.mark.parametrize(
    ("seconds", "told"), [(1.5, "1.5 s"), (60, "60 s"), (600, "10 min"), (7200, "2 h"), (400000, "5 days")]
)
def test_duration(seconds: float, told: str) -> None:
    assert judge.duration(seconds) == told
