"""What dies or hangs in a running machine comes back by itself, is named, and is told by `proa events`.

The cheap half runs daily on the shared machine; the rest has homes of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import Docker
from tests.support.commands import resident, start
from tests.support.homes import PROA, START_TIMEOUT, Home, wait_until

pytestmark = [pytest.mark.machine, pytest.mark.timeout(600)]

BACK = 200.0  # seconds that anything may take to come back on a busy machine


def told(home: Home, since: int = 0) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in home.ok("events", "--json").splitlines()]
    return [event for event in events if event["number"] > since]


def newest(home: Home) -> int:
    return max((event["number"] for event in told(home)), default=0)


def in_guest(home: Home, script: str) -> str:
    return home.ok("shell", "--", "sh", "-c", script, timeout=60).strip()


def service(home: Home, name: str) -> dict[str, Any]:
    """What the guest's init says of a service."""
    state = json.loads(in_guest(home, "cat /run/proa/init.json"))
    found: dict[str, Any] = state["services"][name]
    return found


def signal_in_guest(home: Home, name: str, number: str) -> str:
    """Signal the one process of that name; its pid."""
    return in_guest(home, f"pid=$(pidof -s {name}); kill -{number} $pid; echo $pid")


def event_with(home: Home, since: int, words: str) -> Callable[[], bool]:
    return lambda: any(words in event["message"] + event["done"] for event in told(home, since))


# -- daily, on the shared machine ---------------------------------------------------------------


def test_a_killed_dockerd_is_back_within_its_own_start_time_and_half(home: Home, docker: Docker) -> None:
    docker("ps")
    since, own = newest(home), service(home, "dockerd")
    signal_in_guest(home, "dockerd", "KILL")
    began = time.monotonic()
    status = home.status()
    assert (status["state"], status["problem"]["layer"]) == ("broken", "engine")
    wait_until(lambda: docker("version", status=None).status == 0, BACK, "the engine answers")
    took = time.monotonic() - began
    again = service(home, "dockerd")
    assert again["restarts"] == own["restarts"] + 1
    wait_until(event_with(home, since, "dockerd was ended by signal 9"), 20, "the repair was told")
    assert home.status()["state"] == "running"
    # What else the machine does at one of the two times is none of the healing's.
    start = max(own["seconds"], again["seconds"])
    print(f"dockerd killed: engine back after {took:.1f} s; its own start took {start} s")
    # 2 s for what the two commands that ask take themselves
    assert took <= 1.5 * start + 2, f"{took:.1f} s, and its own start took {start} s"


def test_a_hung_dockerd_is_seen_named_and_started_again(home: Home, docker: Docker) -> None:
    docker("ps")
    since = newest(home)
    signal_in_guest(home, "dockerd", "STOP")
    status = wait_until(lambda: (s := home.status())["state"] == "broken" and s, 15, "it was seen")
    assert (status["problem"]["code"], status["problem"]["layer"]) == ("engine-silent", "engine")
    wait_until(event_with(home, since, "dockerd did not answer for"), BACK, "it was ended and started again")
    wait_until(lambda: home.status()["state"] == "running", BACK, "the engine answers")
    docker("ps")


def test_a_killed_agent_is_back_with_the_engine_at_the_next_command(home: Home, docker: Docker) -> None:
    docker("ps")
    began = time.monotonic()
    docker("ps")
    usual = time.monotonic() - began
    since, agent = newest(home), home.agent_pid()
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    began = time.monotonic()
    docker("ps")
    extra = time.monotonic() - began - usual
    assert any("taken over" in event["message"] for event in told(home, since))
    print(f"agent killed: socket back {extra:.1f} s after the next command")
    assert extra <= 3, f"the engine's socket was back after {extra:.1f} s"


# -- long ----------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_killed_and_a_hung_containerd_are_started_again_and_dockerd_goes_on(
    home: Home, docker: Docker
) -> None:
    for number, words in (
        ("KILL", "containerd was ended by signal 9"),
        ("STOP", "containerd did not answer"),
    ):
        since = newest(home)
        signal_in_guest(home, "containerd", number)
        if number == "STOP":  # one that is killed is back before anybody could look
            status = wait_until(lambda: (s := home.status())["problem"] and s, 20, "it was seen")
            assert (status["state"], status["problem"]["layer"]) == ("running", "containerd")
        wait_until(event_with(home, since, words), BACK, words)
        wait_until(lambda: service(home, "containerd")["state"] == "ready", BACK, "containerd is ready")
        wait_until(
            lambda: docker("run", "--rm", "busybox", "true", status=None, timeout=120).status == 0,
            BACK,
            "containers start again",
        )


@pytest.mark.long
def test_a_hung_guest_agent_is_ended_by_the_guest_itself(home: Home, docker: Docker) -> None:
    since, before = newest(home), home.status()["pid"]
    # From outside of the link: nothing that the agent itself started may depend on its answer.
    with start([PROA, "shell", "--", "sh", "-c", "kill -STOP $PPID"], env=home.environ) as stopping:
        seen = wait_until(lambda: (s := home.status())["state"] == "broken" and s, 20, "it was seen")
        assert seen["problem"]["layer"] in ("guest-agent", "engine"), "who looks hears of the engine first"
        stopping.wait(300)
    wait_until(lambda: home.status()["state"] == "running", BACK, "the link is back")
    wait_until(event_with(home, since, "agent did not answer"), 30, "it was told")
    assert home.status()["pid"] == before, "the machine was not restarted for it"
    docker("ps")


@pytest.mark.long
def test_a_guest_out_of_memory_loses_the_culprit_and_nothing_else(home: Home, docker: Docker) -> None:
    docker("ps")
    since, before = newest(home), service(home, "dockerd")["restarts"]
    eater = "import sys\nblocks = []\nwhile True: blocks.append(bytearray(b'x' * (16 << 20)))"
    eaten = home.proa("shell", "--", "python3", "-c", eater, timeout=300)
    assert eaten.status == 137, eaten
    wait_until(lambda: (p := home.status()["problem"]) and p["code"] == "guest-out-of-memory", 30, "seen")
    status = home.status()
    assert status["state"] == "running"
    assert "python3" in status["problem"]["why"] and status["problem"]["layer"] == "kernel"
    wait_until(event_with(home, since, "the kernel ended python3"), 20, "it was told")
    assert service(home, "dockerd")["restarts"] == before
    assert service(home, "agent")["restarts"] == 0 or service(home, "agent")["state"] == "ready"


@pytest.fixture
def own(image: Path) -> Iterator[Home]:
    with Home() as home:
        home.import_image(image)
        home.ok("start")
        yield home


@pytest.mark.long
def test_a_hypervisor_that_hangs_is_named_and_ended_by_the_next_start_or_agent(own: Home) -> None:
    agent, pid, since = own.agent_pid(), own.status()["pid"], newest(own)
    assert agent is not None
    os.kill(pid, signal.SIGSTOP)
    status = wait_until(lambda: (s := own.status())["state"] == "broken" and s, 15, "it was seen")
    # What is heard of first depends on who asked last; the hypervisor is named within some 20 s.
    assert status["problem"]["layer"] in ("hypervisor", "engine", "guest-agent")
    wait_until(lambda: own.status()["problem"]["code"] == "hypervisor-silent", 60, "the hypervisor is named")
    assert own.status()["problem"]["layer"] == "hypervisor"
    own.ok("start")
    assert (own.status()["state"], own.agent_pid()) == ("running", agent)
    assert own.hypervisors() == [own.status()["pid"]] != [pid]
    assert event_with(own, since, "it is ended by force")()

    pid = own.status()["pid"]
    os.kill(pid, signal.SIGSTOP)
    os.kill(agent, signal.SIGKILL)
    own.ok("start")
    assert own.status()["state"] == "running"
    assert own.hypervisors() == [own.status()["pid"]] != [pid]


@pytest.mark.long
def test_a_runtime_folder_that_is_gone_is_healed_by_the_next_start(own: Home) -> None:
    """After a logout the folder is gone, and the hypervisor may live on, without a socket to ask it by."""
    pid, agent = own.status()["pid"], own.agent_pid()
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    shutil.rmtree(own.folder / "run")
    own.ok("start")
    assert own.status()["state"] == "running"
    assert own.hypervisors() == [own.status()["pid"]] != [pid]


@pytest.mark.long
def test_a_computer_that_was_restarted_has_stopped_the_machine_and_says_so(own: Home) -> None:
    agent, state = own.agent_pid(), own.folder / "machines/default/state.json"
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    os.kill(own.hypervisors()[0], signal.SIGKILL)
    wait_until(lambda: not own.hypervisors(), 10, "it ended")
    shutil.rmtree(own.folder / "run")
    record = json.loads(state.read_text())
    state.write_text(json.dumps({**record, "boot_id": "another boot"}))
    status = own.status()
    assert (status["state"], status["problem"]["code"]) == ("stopped", "host-rebooted")
    assert [event["problem"]["code"] for event in told(own) if event["problem"]] == ["host-rebooted"]
    own.ok("start")
    assert own.status()["problem"] is None


@pytest.fixture
def small(image: Path) -> Iterator[Home]:
    """A running machine on a small file system of its own."""
    if os.geteuid() != 0:
        pytest.fail("run as root: only root can mount a small file system")
    place = Path("/tmp") / f"proa-small-{os.getpid()}"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500m,mode=0700", "none", str(place)], check=True)
    home = Home(place / "h")
    try:
        home.import_image(image)
        home.ok("start")
        yield home
    finally:
        home.close()
        # A process that was ended holds it for another moment.
        wait_until(
            lambda: subprocess.run(["umount", str(place)], check=False).returncode == 0, 20, "it is unmounted"
        )
        place.rmdir()


def _fill(home: Home, leave: int) -> Path:
    ballast = home.folder / "ballast"
    room = os.statvfs(home.folder)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - leave)
    return ballast


@pytest.mark.long
def test_a_full_disk_pauses_the_machine_and_it_goes_on_with_every_byte(small: Home) -> None:
    ballast = _fill(small, 8 << 20)
    # A file that no compression or hole makes small; written in the background, as the guest will pause.
    script = "cd /var/lib/docker && (head -c 60000000 /dev/urandom > big; sync; sha256sum big > sum) &"
    in_guest(small, f"({script}) >/dev/null 2>&1 </dev/null & sleep 0.1")
    status = wait_until(
        lambda: (s := small.status())["state"] == "broken" and s["problem"]["code"] == "host-disk-full" and s,
        BACK,
        "the pause was seen",
    )
    assert status["problem"]["layer"] == "hypervisor" and "free" in status["problem"]["hint"]
    refused = small.proa("docker", "ps", timeout=60)
    assert refused.status == 1 and "host-disk-full" in refused.err, "nobody hangs on a guest that stands"
    assert small.proa("start", timeout=120).status == 1
    ballast.unlink()
    wait_until(lambda: small.status()["state"] == "running", BACK, "it goes on by itself")
    wait_until(lambda: in_guest(small, "cat /var/lib/docker/sum 2>/dev/null || true"), BACK, "all is written")
    assert "OK" in in_guest(
        small, "cd /var/lib/docker && echo 3 > /proc/sys/vm/drop_caches; sha256sum -c sum"
    )
    wait_until(event_with(small, 0, "its disk can be written again"), 30, "that it goes on was told")


@pytest.mark.long
def test_a_read_only_disk_is_said_and_looking_still_works(small: Home) -> None:
    small.ok("stop", "--force")
    mount = str(small.folder.parent)
    agent = small.agent_pid()
    assert agent is not None
    os.kill(agent, signal.SIGTERM)
    wait_until(lambda: small.agent_pid() is None, 20, "the agent ended")
    subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
    try:
        refused = small.proa("start")
        assert refused.status == 1 and "folder-not-writable" in refused.err, refused
        assert "read-only" in refused.err.lower()
        told = small.status()  # without an agent, which cannot be started there
        assert (told["state"], told["problem"]["code"]) == ("broken", "folder-not-writable")
        assert told["problem"]["layer"] == "agent"
    finally:
        subprocess.run(["mount", "-o", "remount,rw", mount], check=True)
    small.ok("start")


@pytest.mark.long
def test_two_machines_share_an_agent_and_a_port_names_the_other(
    home: Home, docker: Docker, registry: Any
) -> None:
    home.ok("create", "second", "--memory", "1GiB", "--disk", "5GiB")
    try:
        for key, value in (
            ("registry.mirrors", f"http://{registry.address}"),
            ("registry.insecure", registry.address),
        ):
            home.ok("config", "set", "--machine", "second", key, value)
        home.ok("start", "second")
        second = Docker(home, "second")
        assert docker("ps").status == second("ps").status == 0
        assert docker.socket != second.socket
        assert home.ok("shell", "second", "--", "cat", "/etc/hostname").strip() == "proa-second"
        docker("run", "-d", "--name", "one", "-p", "18123:80", "busybox", "sleep", "600", timeout=120)
        second("run", "-d", "--name", "two", "-p", "18123:80", "busybox", "sleep", "600", timeout=180)
        rows = json.loads(home.ok("ports", "--json", PROA_MACHINE="second"))
        problem = next(row["problem"] for row in rows if row["host_ip"] == "0.0.0.0")
        assert problem["code"] == "port-taken"
        assert "'one'" in problem["why"] and "'default'" in problem["why"]
        docker("rm", "-f", "one")
        wait_until(
            lambda: (
                not any(
                    row["problem"] for row in json.loads(home.ok("ports", "--json", PROA_MACHINE="second"))
                )
            ),
            30,
            "the second takes the port over",
        )
        assert {row["name"] for row in json.loads(home.ok("list", "--json"))} >= {"default", "second"}
        agent, before = home.agent_pid(), home.status("second")["pid"]
        assert agent is not None
        assert resident(agent) <= 60, "MiB, of the agent of two machines"
        os.kill(agent, signal.SIGKILL)
        assert docker("ps").status == second("ps").status == 0, "one new agent takes both over"
        assert home.status("second")["pid"] == before
    finally:
        home.ok("delete", "second", "--yes", timeout=START_TIMEOUT)
    assert [row["name"] for row in json.loads(home.ok("list", "--json"))] == ["default"]
