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
    rows = [("machine", status.name), ("state", str(status.state))]
    if status.engine.version:
        rows.append(("engine", f"Docker {status.engine.version}"))
    if status.engine.socket:
        rows.append(("socket", f"unix://{status.engine.socket}"))
    runs = f"{status.driver}, {status.accelerator}" if status.accelerator else status.driver
    if status.accelerator == "tcg":
        runs += " (software emulation: slow)"
    if runs:
        rows.append(("driver", runs))
    if status.cpus:
        size = f"{status.cpus} CPU, {show_size(status.memory)} memory, disk up to {show_size(status.disk)}"
        rows.append(("size", size))
    if status.start_seconds is not None:
        rows.append(("started", f"{status.started_with}, in {status.start_seconds:.1f} s"))
    if status.asleep_since is not None:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.asleep_since))
        rows.append(("asleep", f"since {since}; a docker request wakes it"))
    if status.woken_by:
        rows.append(("woken by", f"{status.woken_by}, last"))
    if status.pid is not None:
        rows.append(("pid", str(status.pid)))
    lines = [f"{key:<9}{plain(value)}" for key, value in rows]
    return lines + (problem_lines(status.problem) if status.problem else [])


def problem_lines(problem: Problem) -> list[str]:
    layer = f", layer {problem.layer}" if problem.layer else ""
    told = [f"problem  {problem.message} [{problem.code}{layer}]", problem.why, problem.hint]
    return [plain(line) if index == 0 else f"{'':<9}{plain(line)}" for index, line in enumerate(told) if line]
