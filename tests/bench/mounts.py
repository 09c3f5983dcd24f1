"""Bind mounts: relay and share server on this host, against sshfs over a plain pipe and the folder itself.

The same tree and commands for all three, each with its output compared. A first time is one with a mount
that was just made. sshfs has no cipher here and no network, so it is at its best.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from proa.system.beneath import FOLDERS_HELD as HELD
from proa.system.inotify import Inotify
from proa.system.watching import Kind
from tests.bench.figures import Figure
from tests.bench.world import QUIET, World, cpu_at_rest
from tests.support.share_mounts import ShareMount

FOLDERS, FILES = 600, 7  # in each
ROUNDS = 3
CHANGES = 100  # of one file, for the delay of events
BIG = 256 << 20
WATCHED = 10_000
TIMEOUT = 120.0
SFTP = "/usr/lib/openssh/sftp-server"
NEW = "mkdir new && for i in $(seq 1000); do echo x > new/$i; done && ls new | wc -l"
STATUS, FIND = "git status --short --branch", "find . -size +10k -not -path './.git/*' | sort"
WRITE = f"dd if=/dev/zero of=big bs=1M count={BIG >> 20} 2> /dev/null && stat -c %s big"


def measure(world: World) -> list[Figure]:
    require_sftp()
    if shutil.which("sshfs") is None:
        raise SystemExit("the bench of mounts compares with sshfs: apt-get install sshfs")
    with tempfile.TemporaryDirectory(prefix="proa-bench-") as made:
        folder = Path(made)
        for name in ("ours", "sshfs", "plain"):
            (folder / name).mkdir()
        repository(folder / "plain/tree")
        for name in ("ours", "sshfs"):
            shutil.copytree(folder / "plain/tree", folder / name / "tree", symlinks=True)
        times = _Times()
        for number in range(ROUNDS + 1):
            # The first round only lets git's index take in what each kind of mount shows.
            taken = times if number else _Times()
            _round(taken, "plain", folder / "plain/tree", number)
            with _ours(folder) as place:
                _round(taken, "ours", place, number)
            with _sshfs(folder / "sshfs", folder / "at-sshfs") as place:
                _round(taken, "sshfs", place, number)
        plain, ours = (BIG / 1e6 / times.median(kind, "write") for kind in ("plain", "ours"))
        world.say(f"writing: {plain:.0f} MB/s to the folder itself, {ours:.0f} MB/s through the mount")
        return [*_compared(times), *_alone(folder)]


class _Times:
    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], list[float]] = {}
        self.outputs: dict[str, str] = {}

    def add(self, kind: str, what: str, command: str, place: Path) -> None:
        began = time.perf_counter()
        done = subprocess.run(
            ["sh", "-c", command], cwd=place, check=True, capture_output=True, text=True, timeout=TIMEOUT
        )
        self.seconds.setdefault((kind, what), []).append(time.perf_counter() - began)
        if self.outputs.setdefault(what, done.stdout) != done.stdout:
            raise SystemExit(f"{what}: {kind} says {done.stdout!r}, another {self.outputs[what]!r}")

    def median(self, kind: str, what: str) -> float:
        return statistics.median(self.seconds[kind, what])


def _round(times: _Times, kind: str, place: Path, number: int) -> None:
    times.add(kind, "first status", STATUS, place)
    _settle(place)
    for _ in range(3):
        times.add(kind, "later status", STATUS, place)
    times.add(kind, "later find", FIND, place)
    times.add(kind, "new files", NEW, place)
    # Not removed: ext4 takes its time to pass over each file that went in the last minutes (half a
    # millisecond for a new one after some thousands), which would hide what a mount takes.
    _run(f"mv new ../new-{number}", place)
    if kind != "sshfs":
        # With memory that was just used: where this computer is a virtual machine, its host may take as
        # long to find new one as all of this takes.
        _run(f"{WRITE} && rm big", place)
        times.add(kind, "write", WRITE, place)
        _run("rm big", place)


def _run(command: str, place: Path) -> None:
    subprocess.run(["sh", "-c", command], cwd=place, check=True, capture_output=True, timeout=TIMEOUT)


def _settle(place: Path) -> None:
    """A folder's time of access, which reading it has changed, is asked for once more."""
    for command in (STATUS, FIND, FIND):
        _run(command, place)


def _compared(times: _Times) -> list[Figure]:
    def figure(name: str, what: str, budget: float, than: str) -> Figure:
        baseline = times.median(than, what)
        return Figure(f"{name}, against {than}", times.median("ours", what), "s", budget, baseline)

    return [
        figure("mount: first git status of 4,200 files", "first status", 1 / 4, "sshfs"),
        figure("mount: later git status", "later status", 1.2, "plain"),
        figure("mount: later find", "later find", 1.2, "plain"),
        figure("mount: 1,000 new files", "new files", 1, "sshfs"),
        Figure("mount: writing", BIG / 1e6 / times.median("ours", "write"), "MB/s", 600, floor=True),
    ]


# -- ours alone ------------------------------------------------------------------------------------


def _alone(folder: Path) -> list[Figure]:
    figures = []
    with _mounted(folder / "ours", folder) as mount:
        place = mount.path(folder / "ours/tree")
        (folder / "ours/tree/big").write_bytes(bytes(BIG))
        _forget_content(place / "big")  # the memory for it is at hand now
        before = mount.asked()
        through, plain = (_seconds(["cksum", "big"], at) for at in (place, folder / "ours/tree"))
        if mount.asked() - before < BIG >> 20:
            raise SystemExit("it was not read through the mount")
        # What cksum itself takes is not the mount's.
        figures.append(Figure("mount: reading", BIG / 1e6 / (through - plain), "MB/s", 600, floor=True))
        before = mount.asked()
        subprocess.run(["sh", "-c", NEW], cwd=place, check=True, capture_output=True, timeout=TIMEOUT)
        asked = mount.asked() - before
        figures.append(Figure("mount: messages for a new file", asked / 1000, "", 4))
        delays = _delays(folder / "ours/tree", place)
        figures += [
            Figure("mount: change on the host to its event, median", statistics.median(delays), "ms", 50),
            Figure("mount: change on the host to its event, most", max(delays), "ms", 200),
        ]
        for number in range(WATCHED):
            (folder / f"ours/many/{number // 100}/{number % 100}").mkdir(parents=True)
        subprocess.run(["find", mount.path(folder / "ours/many")], check=True, capture_output=True)
        subprocess.run(["find", mount.path(folder / "ours/many")], check=True, capture_output=True)
        status = mount.status()
        if status["watches"] < WATCHED:
            raise SystemExit(f"only {status['watches']} folders are watched: {status['problem']}")
        figures.append(Figure("mount: server with 10,000 watched folders", mount.resident(), "MiB", 50))
        idle = f"mount: CPU of that server over {QUIET:.0f} s without a request"
        figures.append(Figure(idle, cpu_at_rest(mount.server_pid, HELD + 2), "s", 0.01))
    return figures


def _forget_content(file: Path) -> None:
    """Read all of it, and have the kernel drop what it keeps of it."""
    with file.open("rb", buffering=0) as handle:
        while handle.read(1 << 20):
            pass
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _seconds(argv: list[str], place: Path) -> float:
    began = time.perf_counter()
    subprocess.run(argv, cwd=place, check=True, capture_output=True, timeout=TIMEOUT)
    return time.perf_counter() - began


def _delays(host: Path, guest: Path) -> list[float]:
    """Milliseconds from the end of a host's write to its event in the mount, with the new content there."""
    watcher = Inotify()
    handle = os.open(guest, os.O_RDONLY)
    watcher.watch(handle, b".", folder=True)
    found = []
    try:
        for number in range(CHANGES):
            content = f"{number:03}"
            began = time.perf_counter()
            (host / "changed").write_text(content)
            wanted = Kind.MODIFIED | Kind.CREATED
            while not any(change.kind & wanted for change in watcher.read(TIMEOUT)):
                pass
            found.append(1000 * (time.perf_counter() - began))
            if (guest / "changed").read_text() != content:
                raise SystemExit("an event came before its content")
            while watcher.read(0.05):
                pass  # the rest of it
    finally:
        watcher.close()
        os.close(handle)
    return found


# -- mounts ----------------------------------------------------------------------------------------


def repository(place: Path) -> None:
    """FOLDERS * FILES files, committed."""
    for number in range(FOLDERS):
        folder = place / f"{number % 30}" / f"{number // 30}"
        folder.mkdir(parents=True)
        for index in range(FILES):
            (folder / f"{index}.py").write_text(f"{number} {index}\n" * 20)
    commit = "git init -q -b main && git add -A && git -c user.name=x -c user.email=x@x commit -qm x"
    subprocess.run(["sh", "-c", commit], cwd=place, check=True, timeout=TIMEOUT)


@contextmanager
def _mounted(shared: Path, folder: Path) -> Iterator[ShareMount]:
    state = Path(tempfile.mkdtemp(dir=folder))
    with ShareMount(state, {shared: True}) as mount:
        yield mount


@contextmanager
def _ours(folder: Path) -> Iterator[Path]:
    with _mounted(folder / "ours", folder) as mount:
        yield mount.path(folder / "ours/tree")


def require_sftp() -> None:
    if not Path(SFTP).exists():
        raise SystemExit("the bench of mounts compares with sshfs: apt-get install openssh-sftp-server")


@contextmanager
def sftp_client(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a program that has an SFTP server of this computer at its other end; it must have ended then."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = subprocess.Popen([SFTP], stdin=theirs.fileno(), stdout=theirs.fileno())
        client = subprocess.Popen(argv, env=environ, stdin=ours.fileno(), stdout=ours.fileno())
    try:
        yield
    finally:
        client.wait(TIMEOUT)
        server.wait(TIMEOUT)


@contextmanager
def _sshfs(shared: Path, place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    with sftp_client(["sshfs", "-f", "-o", "passive", f":{shared}", str(place)]):
        try:
            end = time.monotonic() + TIMEOUT
            while not place.is_mount():
                if time.monotonic() > end:
                    raise SystemExit("sshfs does not mount")
                time.sleep(0.05)
            yield place / "tree"
        finally:
            subprocess.run(["umount", "-l", str(place)], check=False, timeout=TIMEOUT)
