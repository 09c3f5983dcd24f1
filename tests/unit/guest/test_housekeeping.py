"""When a quiet guest gives back what it holds, as scripts of looks."""

from __future__ import annotations

from pathlib import Path

from proa_guest.housekeeping import (
    LEAST_CACHE,
    LOOK,
    QUIET_FOR,
    SHRINK,
    TRIM,
    TRIM_EVERY,
    Housekeeper,
    busy,
    cache,
)

MUCH = 4 * LEAST_CACHE


class Script:
    def __init__(self) -> None:
        self.keeper = Housekeeper()
        self.now, self.busy = 100.0, 50.0
        self.keeper.look(self.now, self.busy, 0)

    def look(self, seconds: float, held: int, share: float = 0.05) -> list[str]:
        """What is done in that time, with a guest that works for `share` of it."""
        done: list[str] = []
        for _ in range(int(seconds / LOOK)):
            self.now += LOOK
            self.busy += LOOK * share
            chores = self.keeper.look(self.now, self.busy, held)
            if SHRINK in chores:
                self.keeper.shrunk(held)
            done += chores
        return done


def test_a_quiet_guest_gives_its_cache_back_once() -> None:
    script = Script()
    assert script.look(QUIET_FOR - LOOK, MUCH) == []
    assert script.look(QUIET_FOR, MUCH) == [SHRINK]
    assert script.look(QUIET_FOR, MUCH + LEAST_CACHE - 1) == []
    assert script.look(LOOK, MUCH + LEAST_CACHE) == [SHRINK]


def test_work_puts_it_off() -> None:
    script = Script()
    script.look(QUIET_FOR - LOOK, MUCH)
    assert script.look(LOOK, MUCH, share=1.0) == []
    assert script.look(QUIET_FOR - LOOK, MUCH) == []
    assert script.look(LOOK, MUCH) == [SHRINK]


def test_a_little_cache_stays() -> None:
    assert Script().look(3600, LEAST_CACHE - 1) == []


def test_what_others_freed_does_not_count_as_kept() -> None:
    script = Script()
    assert script.look(2 * QUIET_FOR, MUCH) == [SHRINK]
    assert script.look(LOOK, 0) == []
    assert script.look(LOOK, LEAST_CACHE) == [SHRINK]


def test_the_disk_is_trimmed_once_a_day_of_running() -> None:
    script = Script()
    assert script.look(TRIM_EVERY - LOOK, 0) == []
    assert script.look(2 * LOOK, 0) == [TRIM]
    assert script.look(TRIM_EVERY, 0) == [TRIM]


def test_the_kernel_is_read(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 50 50 9000 700 20 30 50 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    assert busy(str(stat)) == 3.0
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(
        "MemTotal: 9 kB\nActive(file):       4 kB\nInactive(file):    6 kB\nHugePages_Total:  0\n"
    )
    assert cache(str(meminfo)) == 10 << 10
    assert busy() > 0 and cache() > 0
