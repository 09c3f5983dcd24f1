"""Bind mounts in the real guest: a folder of this computer in a container, beside a volume on its own disk.

And beside sshfs, whose server runs on this computer and whose bytes go over the same link, and QEMU's own
virtio-9p, which caches as if nobody else ever changed a file. The same program works in all of them, in turn,
and what it found is compared. A first time is one with nothing in the guest's memory.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.figures import Figure
from tests.bench.mounts import repository, require_sftp, sftp_client
from tests.bench.world import Docker, World
from tests.support import debian_images
from tests.support.homes import wait_until
from tests.support.npm import EXPRESS

ROUNDS = 3
LATER = 11  # looks at what is all known: short ones, so that a moment's noise is much of one
FOLDERS, FILES = 20, 50  # in each
BIG = 64  # MiB
TAG = "bench"  # of the folder that 9p shares
TIMEOUT = 600.0
# What it did, and the seconds that each part took.
_WORK = """
const fs = require('fs'), took = {}, found = {};
const timed = (what, work) => {
  const begun = process.hrtime.bigint();
  found[what] = work();
  took[what] = Number(process.hrtime.bigint() - begun) / 1e9;
};
const below = folder => fs.readdirSync(folder, {withFileTypes: true}).flatMap(
  entry => entry.isDirectory() ? below(folder + '/' + entry.name) : [folder + '/' + entry.name]);
const sum = size => below('tree').map(size).reduce((a, b) => a + b);
process.chdir(process.argv[1]);
const look = () => sum(path => fs.lstatSync(path).size);
const read = () => sum(path => fs.readFileSync(path).length);
timed('first look', look);
timed('later look', look);
timed('first read', read);
timed('later read', read);
timed('new files', () => {
  fs.mkdirSync('new');
  for (let number = 0; number < 1000; number++) fs.writeFileSync('new/' + number, 'x');
  return fs.readdirSync('new').length;
});
const piece = Buffer.alloc(1 << 20, 'x');
timed('write', () => {
  const file = fs.openSync('big', 'w');
  for (let number = 0; number < BIG; number++) fs.writeSync(file, piece);
  fs.fsyncSync(file);
  fs.closeSync(file);
  return fs.statSync('big').size;
});
timed('read', () => fs.readFileSync('big').length);
fs.rmSync('new', {recursive: true});
fs.rmSync('big');
console.log(JSON.stringify({took, found}));
""".replace("BIG", str(BIG))
_STATUS = """
const begun = process.hrtime.bigint();
const words = ['-c', 'safe.directory=*', '-C', '/tmp/at/repository', 'status', '--short', '--branch'];
const found = String(require('child_process').execFileSync('git', words));
console.log(JSON.stringify({took: Number(process.hrtime.bigint() - begun) / 1e9, found}));
"""
# A folder's time of access, which reading it has changed, is asked for once more.
_SETTLE = "cd /tmp/at/repository && for i in 1 2; do find . -size +10k > /dev/null; done"
_NPM = """\
cd /tmp/at && rm -rf node_modules && begun=$(date +%s)
npm ci --offline --no-audit --no-fund --silent && ls node_modules | wc -l && echo $(($(date +%s) - begun))
"""


def measure(world: World) -> list[Figure]:
    require_sftp()
    with tempfile.TemporaryDirectory(prefix="proa-bench-") as made, ExitStack() as stack:
        folder = Path(made)
        _tree(folder / "host/tree")
        repository(folder / "host/repository")
        stack.enter_context(_device_of_9p(world, folder))
        world.home.ok("start")
        debian_images.save("library/node", folder / "node.tar", world.say)
        docker = Docker(world)
        docker("load", "-i", str(folder / "node.tar"))
        (folder / "node.tar").unlink()
        for kind in ("sftp", "9p"):
            shutil.copytree(folder / "host", folder / kind, dirs_exist_ok=True)
        where = {"mount": f"{folder}/host:/tmp/at", "disk": "disk:/tmp/at"}
        asleep = ("node:18", "sleep", "inf")
        docker("run", "-d", "--name", "filler", "-v", where["mount"], "-v", "disk:/disk", *asleep)
        docker("exec", "filler", "cp", "-r", "/tmp/at/tree", "/tmp/at/repository", "/disk/")
        for kind, place in where.items():
            docker("run", "-d", "--name", kind, "-v", place, "-v", "npm:/root/.npm", *asleep)
        _mount_9p(world, docker)
        with _sshfs(world, docker, folder / "sftp"):
            every = (*where, "sshfs", "9p")
            figures = [*_files(world, docker, every), *_status(world, docker, every)]
        figures += _npm(docker, where)
        docker("rm", "-f", "filler", "9p", *where)
        docker("volume", "rm", "disk", "npm")
    return figures


@contextmanager
def _device_of_9p(world: World, folder: Path) -> Iterator[None]:
    """The machine's QEMU is one that shares `folder / "9p"` besides: a program of its name adds that."""
    (folder / "9p").mkdir()
    (folder / "bin").mkdir()
    program = folder / "bin/qemu-system-x86_64"
    found = shutil.which(program.name)
    assert found is not None
    device = (
        f"-fsdev local,id=bench,path={folder}/9p,security_model=none"
        f" -device virtio-9p-pci,fsdev=bench,mount_tag={TAG}"
    )
    program.write_text(f'#!/bin/sh\nexec {found} "$@" {device}\n')
    program.chmod(0o755)
    before = world.home.environ["PATH"]
    _restart(world, f"{program.parent}:{before}")
    try:
        yield
    finally:
        _restart(world, before)


def _restart(world: World, path: str) -> None:
    """Off with the machine and its agent; the next one finds programs by `path`."""
    world.home.ok("stop", "--cold")
    pid = world.home.agent_pid()
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: world.home.agent_pid() is None, TIMEOUT, "the agent has ended")
    world.home.environ["PATH"] = path


def _mount_9p(world: World, docker: Docker) -> None:
    """A container `9p` that has it at /tmp/at, cached as long as can be."""
    world.home.ok("shell", "--", "modprobe", "-a", "9p", "9pnet_virtio")
    docker("run", "-d", "--name", "9p", "--privileged", "node:18", "sleep", "inf")
    options = f"trans=virtio,version=9p2000.L,cache=loose,msize={1 << 19}"
    docker("exec", "9p", "sh", "-c", f"mkdir /tmp/at && mount -t 9p -o {options} {TAG} /tmp/at")


@contextmanager
def _sshfs(world: World, docker: Docker, folder: Path) -> Iterator[None]:
    """A container `sshfs` that has `folder` at /tmp/at by it."""
    rights = ("--device", "/dev/fuse", "--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined")
    docker("run", "-d", "--name", "sshfs", *rights, "node:18", "sleep", "inf")
    docker("exec", "sshfs", "mkdir", "/tmp/at")
    words = ("exec", "-i", "sshfs", "sshfs", "-f", "-o", "passive", f":{folder}", "/tmp/at")
    with sftp_client((str(world.docker), *words), world.docker_environ):
        try:
            there = "until [ -e /tmp/at/tree ]; do sleep 0.2; done"
            docker("exec", "sshfs", "timeout", "60", "sh", "-c", there)
            yield
        finally:
            docker("rm", "-f", "sshfs")


def _files(world: World, docker: Docker, where: Sequence[str]) -> list[Figure]:
    times: dict[str, dict[str, list[float]]] = {kind: {} for kind in where}
    found = []
    for _ in range(ROUNDS):
        for kind in where:
            _forget_files(world)
            told = json.loads(docker("exec", kind, "node", "-e", _WORK, "/tmp/at"))
            found.append(told["found"])
            for what, seconds in told["took"].items():
                times[kind].setdefault(what, []).append(seconds)
    assert all(each == found[0] for each in found), found

    taken = {what: {kind: statistics.median(times[kind][what]) for kind in where} for what in times["disk"]}
    for what, by in taken.items():
        world.say(
            f"in the guest, {what}: {by['mount']:.2f} s, {by['disk']:.2f} s on its own disk,"
            f" {by['sshfs']:.2f} s with sshfs, {by['9p']:.2f} s with 9p"
        )

    def figure(what: str, than: str, budget: float) -> Figure:
        name = f"in the guest: {what} ({FOLDERS * FILES}), against {than}"
        return Figure(name, taken[what]["mount"], "s", budget, taken[what][than])

    # Only these have budgets; the others tell where the time goes.
    return [
        figure("later look", "disk", 1.2),
        figure("new files", "sshfs", 1),
    ]


def _forget_files(world: World) -> None:
    world.home.ok("shell", "--", "sh", "-c", "sync; echo 3 > /proc/sys/vm/drop_caches")


def _status(world: World, docker: Docker, where: Sequence[str]) -> list[Figure]:
    """`git status`, with nothing in the guest's memory, once more, and when all has been asked for."""
    times = _statuses(world, docker, where)
    taken = {key: statistics.median(each) for key, each in times.items()}
    for when in ("first", "second", "later"):
        told = ", ".join(f"{taken[key]:.2f} s on {key[1]}" for key in taken if key[0] == when)
        world.say(f"in the guest, {when} git status: {told}")

    def figure(when: str, than: str, budget: float) -> Figure:
        name = f"in the guest: {when} git status, against {than}"
        return Figure(name, taken[when, "mount"], "s", budget, taken[when, than])

    return [figure("first", "sshfs", 1 / 4), figure("later", "disk", 1.2)]


def _statuses(world: World, docker: Docker, where: Sequence[str]) -> dict[tuple[str, str], list[float]]:
    """The seconds that each took, by when and where; all must have found the same."""
    times: dict[tuple[str, str], list[float]] = {}
    found = set()

    def status(when: str, kind: str) -> None:
        told = json.loads(docker("exec", kind, "node", "-e", _STATUS))
        found.add(told["found"])
        times.setdefault((when, kind), []).append(told["took"])

    quick = [kind for kind in where if kind != "sshfs"]  # there it takes minutes
    for number in range(ROUNDS + 1):
        for kind in where if number < 2 else quick:
            _forget_files(world)
            status("first", kind)
            status("second", kind)
        if not number:
            times.clear()  # it only let git's index take in what each kind of mount shows
    for kind in ("mount", "disk"):
        docker("exec", kind, "sh", "-c", _SETTLE)
    for _ in range(LATER):
        for kind in ("mount", "disk"):
            status("later", kind)
    assert len(found) == 1, found
    return times


def _npm(docker: Docker, where: Mapping[str, str]) -> list[Figure]:
    """The packages are there already: no network is measured. In whole seconds, of many."""
    docker(
        "exec", "disk", "sh", "-c", f"cd /tmp/at && npm init -y >/dev/null && npm install --silent {EXPRESS}"
    )
    docker("exec", "filler", "sh", "-c", "cp /disk/package*.json /tmp/at/")
    times: dict[str, list[float]] = {kind: [] for kind in where}
    counts = set()
    for _ in range(ROUNDS):
        for kind in where:
            count, took = docker("exec", kind, "sh", "-c", _NPM).split()
            counts.add(count)
            times[kind].append(int(took))
    assert len(counts) == 1, counts
    mount, disk = (statistics.median(times[kind]) for kind in ("mount", "disk"))
    return [Figure(f"in the guest: npm ci of {EXPRESS}", mount, "s", 2.0, disk)]


def _tree(place: Path) -> None:
    for folder in range(FOLDERS):
        (place / f"{folder}").mkdir(parents=True)
        for number in range(FILES):
            (place / f"{folder}/{number}").write_bytes(b"x" * (100 + 37 * number))
