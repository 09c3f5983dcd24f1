"""One machine's life with a real guest, in a home of its own: states, adoption, crashes."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import start
from tests.support.homes import PROA, START_TIMEOUT, Home, wait_until

pytestmark = [pytest.mark.machine, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def home(image: Path) -> Iterator[Home]:
    with Home() as home:
        home.import_image(image, proved=False)
        yield home


@pytest.fixture
def running(home: Home) -> Home:
    home.ok("start")
    return home


def test_a_machine_is_made_started_and_measured(home: Home) -> None:
    assert home.status()["state"] == "absent"
    told = home.proa("start")
    assert told.status == 0, home.last_words()
    assert "proa docker run" in told.out + told.err, "it names a first command to try"
    status = home.status()
    assert status["state"] == "running"
    assert status["problem"] is None
    assert status["started_with"] == "cold"
    assert status["start_seconds"] > 0
    assert status["engine"]["version"]
    assert Path(status["engine"]["socket"]) == home.folder / "run/default/docker.sock"
    assert status["pid"] in home.hypervisors()


def test_starting_twice_is_one_machine(running: Home) -> None:
    before = running.status()["pid"]
    running.ok("start")
    assert running.status()["pid"] == before
    assert len(running.hypervisors()) == 1


def test_everything_of_ours_is_private(running: Home) -> None:
    open_to_others = [
        path
        for path in running.folder.rglob("*")
        if not path.is_symlink() and path.lstat().st_mode & 0o077 and "images" not in path.parts
    ]
    assert open_to_others == []
    assert running.folder.stat().st_mode & 0o077 == 0


def test_the_link_secret_is_on_no_command_line(running: Home) -> None:
    secret = (running.folder / "run/default/link.key").read_bytes()
    command = Path(f"/proc/{running.status()['pid']}/cmdline").read_bytes()
    assert secret not in command and secret.hex().encode() not in command


def test_an_agent_killed_is_followed_by_one_that_adopts(running: Home) -> None:
    before, agent = running.status()["pid"], running.agent_pid()
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    began = time.monotonic()
    running.ok("docker", "ps")
    assert time.monotonic() - began < 30  # a bound for a busy machine; the figure is in test_healing
    status = running.status()
    assert (status["state"], status["pid"]) == ("running", before)
    assert running.agent_pid() not in (None, agent)


def test_an_agent_asked_to_end_leaves_the_machine_running(running: Home) -> None:
    before, agent = running.status()["pid"], running.agent_pid()
    assert agent is not None
    os.kill(agent, signal.SIGTERM)
    wait_until(lambda: running.agent_pid() is None, 15, "the agent ended")
    assert running.hypervisors() == [before]
    assert running.status()["pid"] == before


def test_a_killed_hypervisor_is_seen_and_started_again_by_itself(running: Home) -> None:
    before = running.status()["pid"]
    os.kill(before, signal.SIGKILL)
    # For a moment it is only known that the engine does not answer, or that there is no hypervisor.
    status = wait_until(
        lambda: _with_problem(running, "machine-died", "by itself"), 10, "the death was seen and healed"
    )
    assert status["state"] in ("broken", "starting")
    assert status["problem"]["layer"] == "hypervisor"
    running.ok("start")  # it joins what is under way, and makes no second machine
    status = running.status()
    assert (status["state"], status["problem"]) == ("running", None)
    assert running.hypervisors() == [status["pid"]] != [before]
    told = events(running)
    assert ("problem", "machine-died") in told and told[-1][0] in ("repair", "state")


def _with_problem(home: Home, code: str, hint: str = "") -> dict[str, Any] | None:
    """The machine's status, if that is what is wrong with it, and the hint says so."""
    status = home.status()
    problem = status["problem"] or {"code": "", "hint": ""}
    return status if problem["code"] == code and hint in problem["hint"] else None


def test_a_stop_comes_before_a_start_of_our_own(running: Home) -> None:
    os.kill(running.status()["pid"], signal.SIGKILL)
    wait_until(lambda: running.status()["state"] == "starting", 30, "it is started again by itself")
    running.ok("stop", timeout=60)
    status = running.status()
    assert (status["state"], status["problem"]) == ("stopped", None)
    assert running.hypervisors() == []
    agent = running.agent_pid()
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    assert running.status()["state"] == "stopped", "not even a new agent starts it"


@pytest.mark.long
def test_a_guest_panic_is_seen_named_and_healed(running: Home) -> None:
    running.proa("shell", "--", "sh", "-c", "echo c > /proc/sysrq-trigger", timeout=60)
    status = wait_until(lambda: _with_problem(running, "guest-panicked"), 20, "the panic was seen")
    assert status["problem"]["layer"] == "kernel"
    assert "Kernel panic" in status["problem"]["why"]
    wait_until(lambda: running.status()["state"] == "running", START_TIMEOUT, "it runs again by itself")
    assert ("problem", "guest-panicked") in events(running)


# A QEMU that gives its first machine, and no later one, a kernel that finds nothing to run.
ONCE_WITHOUT_INIT = """#!/bin/bash
for word; do
  if [[ $word == -name ]]; then machine=1; fi  # the proof of an accelerator has none
  if [[ $before == -append && $machine && ! -e {mark} ]]; then
    word+=" rdinit=/none root=/dev/none"
    touch {mark}
  fi
  words+=("$word") before=$word
done
exec {qemu} "${{words[@]}}"
"""


@pytest.mark.long
def test_an_emulated_kernel_that_gives_up_while_it_boots_is_booted_once_more(
    image: Path, tmp_path: Path
) -> None:
    qemu, mark = tmp_path / "qemu", tmp_path / "mark"
    qemu.write_text(ONCE_WITHOUT_INIT.format(qemu=shutil.which("qemu-system-x86_64"), mark=mark))
    qemu.chmod(0o755)
    with Home() as home:
        home.import_image(image)
        started = home.proa("start", PROA_QEMU=str(qemu))
        assert mark.exists()
        if "with kvm" in home.last_words():
            pytest.skip("nothing is emulated here")
        assert started.status == 0, started
        assert "booting it once more" in started.err
        assert ("repair", "guest-panicked") in events(home)
        assert len(home.hypervisors()) == 1 and home.status()["problem"] is None


def events(home: Home) -> list[tuple[str, str]]:
    """Kind and problem code of what was told, oldest first."""
    told = [json.loads(line) for line in home.ok("events", "--json").splitlines()]
    return [(event["kind"], (event["problem"] or {}).get("code", "")) for event in told]


def test_stop_is_graceful_and_its_socket_says_how_to_start(running: Home) -> None:
    running.ok("stop")
    status = running.status()
    assert (status["state"], status["problem"], status["pid"]) == ("stopped", None, None)
    assert running.hypervisors() == []
    refused = running.proa("docker", "ps", timeout=30)
    assert refused.status != 0
    assert "proa start" in refused.err, "the stopped machine's socket says how to start it"
    assert running.status()["state"] == "stopped", "a stopped machine stays stopped"
    console = (running.folder / "logs/default-console.log").read_text(errors="replace")
    assert "Kernel panic" not in console.rpartition("proa: init")[2]


@pytest.mark.long
def test_what_was_written_outlives_force(running: Home) -> None:
    running.ok("shell", "--", "sh", "-c", "echo kept > /var/lib/proa/mark && sync")
    running.ok("stop", "--force")
    running.ok("start")
    assert running.ok("shell", "--", "cat", "/var/lib/proa/mark").strip() == "kept"
    running.ok("shell", "--", "rm", "/var/lib/proa/mark")


@pytest.mark.long
def test_stale_pid_socket_and_lock_are_healed_and_the_stranger_lives(running: Home) -> None:
    running.ok("stop", "--force")
    runtime = running.folder / "run/default"
    state = runtime / "hypervisor.json"
    content = json.loads(state.read_text()) if state.exists() else {"version": 1}
    content["pid"] = os.getpid()  # the stranger is this test
    state.write_text(json.dumps(content))
    (runtime / "qmp.sock").unlink(missing_ok=True)
    (runtime / "qmp.sock").write_text("not a socket")
    agent, locks = running.agent_pid(), (running.folder / "run/agent.lock", _lock(running))
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    wait_until(lambda: running.agent_pid() != agent, 20, "the agent ended")
    for lock in locks:
        lock.write_text(f"{os.getpid()}\n")
    with _lock(running).open() as held:  # by somebody who lives: that is said, and nobody is ended for it
        fcntl.flock(held, fcntl.LOCK_EX)
        refused = running.proa("start", timeout=120)
    assert refused.status == 1 and "default" in refused.err, refused
    assert running.hypervisors() == []
    running.ok("start")
    assert running.status()["state"] == "running"


def _lock(home: Home) -> Path:
    return home.folder / "machines/default/lock"


@pytest.mark.long
def test_kill_of_the_agent_in_the_middle_of_a_start_leaves_one_machine(running: Home) -> None:
    running.ok("stop", "--force")
    for layer in ("booting", "guest answers", "engine answers"):
        _start_and_kill_agent_at(running, layer)
        running.ok("start")
        assert len(running.hypervisors()) == 1
        assert running.status()["state"] == "running"
        running.ok("stop", "--force")


def _start_and_kill_agent_at(home: Home, words: str) -> None:
    with start([PROA, "start"], env=home.environ, stderr=subprocess.STDOUT) as starting:
        assert starting.stdout is not None
        for line in starting.stdout:
            if words.encode() in line:
                break
        agent = home.agent_pid()
        assert agent is not None
        os.kill(agent, signal.SIGKILL)
        assert starting.wait(60) == 1, "the start that lost its agent says so"


@pytest.mark.long
def test_kill_of_the_hypervisor_in_the_middle_of_a_start_is_said(running: Home) -> None:
    running.ok("stop", "--force")
    with start([PROA, "start"], env=running.environ) as starting:
        pid = wait_until(running.hypervisors, 60, "the hypervisor was started")[0]
        os.kill(pid, signal.SIGKILL)
        _, told = starting.communicate(timeout=60)
    assert starting.returncode == 1
    assert re.search(rb"\[hypervisor-(died|failed)\]", told), told
    assert running.hypervisors() == []
    running.ok("start")


@pytest.mark.long
def test_two_starts_and_a_stop_at_once_end_in_one_state(running: Home) -> None:
    import concurrent.futures

    running.ok("stop", "--force")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(
            pool.map(lambda verb: running.proa(*verb), [["start"], ["start"], ["stop"], ["start"]])
        )
    assert [result.status for result in results] == [0, 0, 0, 0], results
    assert len(running.hypervisors()) <= 1
    assert running.status()["state"] in ("running", "stopped")


def test_delete_asks_and_removes_all(running: Home) -> None:
    refused = running.proa("delete", "default")
    assert refused.status == 2 and "--yes" in refused.err
    running.ok("delete", "default", "--yes")
    assert running.status()["state"] == "absent"
    assert running.hypervisors() == []
    assert not (running.folder / "machines/default").exists()
    assert not (running.folder / "run/default").exists()
