"""A save and a restore that fail at every step: the machine runs, sleeps, or boots cold, and nothing is lost.

Each fault runs in a real agent (tests/support/faulty_agent.py) with a real guest. What was fsynced before
is there after; at most one hypervisor runs; no image is used twice; the next start needs no help.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proa.machine.sleep.order import RESTORE, SAVE, Step
from tests.support.faults import faulty
from tests.support.homes import Home, wait_until

pytestmark = [pytest.mark.machine, pytest.mark.long, pytest.mark.timeout(1200)]

FILE = "/var/lib/proa/counter"
# A process that counts, each count fsynced before it is told: what a database promises.
COUNTER = f"""
import os, time
open("/run/counting", "w").close()
n = 0
while True:
    n += 1
    f = os.open("{FILE}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(f, str(n).encode())
    os.fsync(f)
    os.close(f)
    os.rename("{FILE}.new", "{FILE}")
    time.sleep(0.2)
"""
BEGIN = f"""
test -e /run/counting && exit 0
rm -f {FILE}
setsid python3 -c "$1" >/dev/null 2>&1 </dev/null &
until test -e {FILE}; do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def home(image: Path) -> Iterator[Home]:
    with Home() as home:
        home.import_image(image)
        home.ok("start")
        yield home


def count(home: Home) -> int:
    return int(home.ok("shell", "--", "cat", FILE))


def begin_counting(home: Home) -> None:
    """Until the guest is booted anew; /run is its memory."""
    home.ok("shell", "--", "sh", "-c", BEGIN, "sh", COUNTER)


def check(home: Home, least: int) -> None:
    """After a fault, and one start without any help."""
    assert len(home.hypervisors()) <= 1
    home.ok("start")
    status = home.status()
    assert (status["state"], status["problem"]) == ("running", None)
    assert len(home.hypervisors()) == 1
    assert count(home) >= least, "what was fsynced before is there"
    errors = home.ok("shell", "--", "sh", "-c", "dmesg | grep -E 'EXT4-fs (error|warning)' || true")
    assert errors == "", "the file system is clean"
    machine = home.folder / "machines/default"
    wait_until(lambda: not list(machine.glob("memory.*")), 20, "no file of an image is left")
    home.ok("docker", "ps")


# What differs from each other. All of them take half an hour: PROA_ALL_FAULTS=1 make test-long
SAVES = [
    ("agent", Step.SAVE, "after"),
    ("agent", Step.READY, "after"),
    ("hypervisor", Step.VERIFY, "before"),
    ("ENOSPC", Step.SAVE, "after"),
]
RESTORES = [
    ("agent", Step.CONSUME, "before"),
    ("agent", Step.MEND, "after"),
    ("hypervisor", Step.CONSUME, "before"),
    ("EIO", Step.LOAD, "before"),
]
if os.environ.get("PROA_ALL_FAULTS"):
    SAVES = list(itertools.product(("agent", "hypervisor", "ENOSPC", "EIO"), SAVE, ("before", "after")))
    RESTORES = list(itertools.product(("agent", "hypervisor", "ENOSPC", "EIO"), RESTORE, ("before", "after")))


@pytest.mark.parametrize(("how", "step", "when"), SAVES)
def test_a_save_that_is_cut_off(home: Home, how: str, step: Step, when: str) -> None:
    home.ok("start")
    begin_counting(home)
    before = count(home)
    with faulty(home, how, step, when):
        result = home.proa("suspend", timeout=120)
        if how not in ("agent", "hypervisor"):
            assert result.status == 1, result
            assert home.status()["state"] == "running", "a save that fails leaves the machine running"
            assert count(home) >= before
    check(home, before)


@pytest.mark.parametrize(("how", "step", "when"), RESTORES)
def test_a_restore_that_is_cut_off(home: Home, how: str, step: Step, when: str) -> None:
    home.ok("start")
    begin_counting(home)
    before = count(home)
    home.ok("suspend")
    with faulty(home, how, step, when):
        home.proa("start", timeout=300)
    check(home, before)


@pytest.mark.parametrize("name", ["state", "ram", "header"])
def test_a_damaged_image_is_found_before_it_runs(home: Home, name: str) -> None:
    home.ok("start")
    begin_counting(home)
    before = count(home)
    home.ok("suspend")
    path = home.folder / "machines/default/memory.ready" / name
    with path.open("r+b") as file:
        if name == "ram":
            file.truncate(path.stat().st_size // 2)
        else:
            file.seek(path.stat().st_size // 2)
            file.write(b"\xff")
    told = home.proa("start")
    assert told.status == 0 and "boots cold" in told.out + told.err, told
    assert home.status()["started_with"] == "cold"
    check(home, before)


def test_a_changed_machine_boots_cold_and_says_why(home: Home) -> None:
    home.ok("start")
    home.ok("stop")
    config = home.folder / "machines/default/machine.toml"
    text = config.read_text()
    config.write_text(text.replace('memory = "2GiB"', 'memory = "1536MiB"'))
    told = home.proa("start")
    assert told.status == 0, told
    said = [line for line in (told.out + told.err).splitlines() if "boots cold" in line]
    assert len(said) == 1 and "memory" in said[0], told
    config.write_text(text)
    home.ok("restart")
    assert home.status()["memory"] == 2 << 30


def test_everybody_at_once(home: Home) -> None:
    """Two starts, a stop during a start, a start during a suspend."""
    for verbs in (["start", "start"], ["start", "stop"], ["suspend", "start"], ["stop", "suspend", "start"]):
        home.ok("start")
        if verbs[0] == "start":
            home.ok("stop")
        with concurrent.futures.ThreadPoolExecutor(len(verbs)) as pool:
            results = list(pool.map(home.proa, verbs))
        for verb, result in zip(verbs, results, strict=True):
            refused = verb == "suspend" and "machine-not-running" in result.err
            assert result.status == 0 or refused, (verbs, result)
        assert len(home.hypervisors()) <= 1
        assert home.status()["state"] in ("running", "stopped", "suspended")
