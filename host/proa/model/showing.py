"""How a machine's status is written for people; the agent writes it too, for those who only print it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from proa.model.sizes import show_size

if TYPE_CHECKING:  # completing a word needs `plain`, and neither of these
    from proa.model.machine import MachineStatus
    from proa.model.problem import Problem


def plain(text: str) -> str:
    """Text from a guest or an image, without what would move a terminal's cursor."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def status_lines(status: MachineStatus) -> list[str]:
    """Every line safe to print."""
    if status.state == "absent":
        return [f"{status.name}: absent", f"make and start it: proa start {status.name}"]
    lines = [f"{name:<9}{plain(value)}" for name, value in _rows(status)]
    return lines + (problem_lines(status.problem) if status.problem else [])


def _rows(status: MachineStatus) -> list[tuple[str, str]]:
    """What is known of it, each with its name."""
    runs = f"{status.driver}, {status.accelerator}" if status.accelerator else status.driver
    slow = " (software emulation: slow)" if status.accelerator == "tcg" else ""
    size = f"{status.cpus} CPU, {show_size(status.memory)} memory, disk up to {show_size(status.disk)}"
    seconds = status.start_seconds
    asleep = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.asleep_since or 0))
    rows: tuple[tuple[str, str, object], ...] = (
        ("machine", status.name, True),
        ("state", str(status.state), True),
        ("engine", f"Docker {status.engine.version}", status.engine.version),
        ("socket", f"unix://{status.engine.socket}", status.engine.socket),
        ("driver", runs + slow, runs),
        ("size", size, status.cpus),
        ("started", f"{status.started_with}, in {seconds or 0:.1f} s", seconds is not None),
        ("asleep", f"since {asleep}; a docker request wakes it", status.asleep_since is not None),
        ("woken by", f"{status.woken_by}, last", status.woken_by),
        ("pid", str(status.pid), status.pid is not None),
    )
    return [(name, value) for name, value, known in rows if known]


def problem_lines(problem: Problem) -> list[str]:
    layer = f", layer {problem.layer}" if problem.layer else ""
    told = [f"problem  {problem.message} [{problem.code}{layer}]", problem.why, problem.hint]
    return [plain(line) if index == 0 else f"{'':<9}{plain(line)}" for index, line in enumerate(told) if line]
