"""Random changes from both sides: what the guest keeps must be what the host has, and do what a disk does."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.share_mounts import ShareMount

pytestmark = [pytest.mark.timeout(300)]
NAMES = ("a", "b", "c", "d")
DAILY, LONG = 1000, 10_000  # steps


def _runs(seeds: int) -> list[Any]:
    """Seeds and steps: short ones each day, one long one beside them."""
    long = pytest.param(seeds, LONG, marks=pytest.mark.long)
    return [*((seed, DAILY) for seed in range(seeds)), long]


def _place(chance: random.Random) -> str:
    return "/".join(chance.choice(NAMES) for _ in range(chance.choice((1, 1, 2, 2, 3))))


def _write(folder: Path, chance: random.Random) -> object:
    return (folder / _place(chance)).write_text("x" * chance.randrange(6))


def _append(folder: Path, chance: random.Random) -> object:
    with (folder / _place(chance)).open("a") as file:
        return file.write(chance.choice("yz"))


def _read(folder: Path, chance: random.Random) -> object:
    return (folder / _place(chance)).read_text()


def _list(folder: Path, chance: random.Random) -> object:
    return sorted(os.listdir(folder / _place(chance)))


def _look(folder: Path, chance: random.Random) -> object:
    found = os.lstat(folder / _place(chance))
    return stat.S_IFMT(found.st_mode), found.st_size if stat.S_ISREG(found.st_mode) else 0


def _rename(folder: Path, chance: random.Random) -> object:
    return os.rename(folder / _place(chance), folder / _place(chance))


def _link(folder: Path, chance: random.Random) -> object:
    return os.link(folder / _place(chance), folder / _place(chance), follow_symlinks=False)


def _symlink(folder: Path, chance: random.Random) -> object:
    return os.symlink(chance.choice(NAMES), folder / _place(chance))


def _truncate(folder: Path, chance: random.Random) -> object:
    return os.truncate(folder / _place(chance), chance.randrange(9))


def _chmod(folder: Path, chance: random.Random) -> object:
    return os.chmod(folder / _place(chance), chance.choice((0o700, 0o750, 0o777)))


Step = Callable[[Path, random.Random], object]
CHANGES: tuple[Step, ...] = (
    _write, _write, _append, _rename, _rename, _link, _symlink, _truncate, _chmod,
    lambda folder, chance: (folder / _place(chance)).mkdir(),
    lambda folder, chance: (folder / _place(chance)).mkdir(),
    lambda folder, chance: (folder / _place(chance)).rmdir(),
    lambda folder, chance: (folder / _place(chance)).unlink(),
)  # fmt: skip
LOOKS: tuple[Step, ...] = (_read, _list, _look, _look)


def _picture(folder: Path) -> dict[str, object]:
    """All that is to be seen of a tree."""
    found: dict[str, object] = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place) / name
            status = os.lstat(path)
            shown: list[object] = [stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)]
            if stat.S_ISLNK(status.st_mode):
                shown.append(os.readlink(path))
            elif stat.S_ISREG(status.st_mode):
                shown += [status.st_size, status.st_nlink, path.read_text()]
            found[str(path.relative_to(folder))] = shown
    return found


@pytest.mark.parametrize(("seed", "steps"), _runs(3))
def test_the_guest_never_keeps_what_the_host_has_changed(mount: ShareMount, seed: int, steps: int) -> None:
    chance = random.Random(seed)
    host = next(iter(mount.roots)) / f"both-{seed}"
    host.mkdir()
    guest = mount.path(host)
    for number in range(steps):
        step = chance.choice((*CHANGES, *LOOKS, *LOOKS))
        # What the guest keeps comes from looking; both sides change.
        side = guest if step in LOOKS or chance.random() < 0.4 else host
        with contextlib.suppress(OSError):
            step(side, chance)
        if number % 100 == 99:
            mount.settled()
            assert _picture(guest) == _picture(host), f"seed {seed}, step {number}"


@pytest.mark.parametrize(("seed", "steps"), _runs(2))
def test_nothing_stale_is_left_when_both_sides_change_at_once(
    mount: ShareMount, seed: int, steps: int
) -> None:
    host = next(iter(mount.roots)) / f"at-once-{seed}"
    host.mkdir()
    guest = mount.path(host)

    def work(side: Path, chance: random.Random) -> None:
        for _ in range(steps // 10):
            step = chance.choice((*CHANGES, *LOOKS) if side is guest else CHANGES)
            with contextlib.suppress(OSError):
                step(side, chance)

    for turn in range(10):
        sides = (guest, guest, host)
        threads = [
            threading.Thread(target=work, args=(side, random.Random(f"{seed} {turn} {number}")))
            for number, side in enumerate(sides)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        mount.settled()
        assert _picture(guest) == _picture(host), f"seed {seed}, turn {turn}"


@pytest.mark.parametrize(("seed", "steps"), _runs(2))
def test_the_guest_alone_does_what_a_disk_does(
    mount: ShareMount, tmp_path: Path, seed: int, steps: int
) -> None:
    """The same steps on a plain folder: the same answers and errors, and the same tree, on the host too."""
    chance, same = random.Random(seed), random.Random(seed)
    host = next(iter(mount.roots)) / f"alone-{seed}"
    host.mkdir()
    guest = mount.path(host)
    for number in range(steps):
        step = chance.choice((*CHANGES, *LOOKS))
        assert step is same.choice((*CHANGES, *LOOKS))
        assert _answer(step, guest, chance) == _answer(step, tmp_path, same), f"seed {seed}, step {number}"
        assert chance.getstate() == same.getstate()
        if number % 500 == 499:
            assert _picture(guest) == _picture(tmp_path)
    assert _picture(host).keys() == _picture(tmp_path).keys()
    shutil.rmtree(guest)
    assert not host.exists()


def _answer(step: Step, folder: Path, chance: random.Random) -> object:
    try:
        return step(folder, chance)
    except OSError as error:
        return error.errno
