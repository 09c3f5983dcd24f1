"""The agent's HTTP API on its private socket, as types. All bodies are JSON.

GET    /v1/agent                         AgentInfo
GET    /v1/machines                      list[MachineStatus]
GET    /v1/machines/NAME                 MachineStatus (state `absent` where there is none)
POST   /v1/machines/NAME/create          MachineOptions -> lines of Message
POST   /v1/machines/NAME/start           MachineOptions -> lines of Message (makes it if there is none)
POST   /v1/machines/NAME/stop            StopRequest    -> lines of Message
POST   /v1/machines/NAME/suspend         -> lines of Message
POST   /v1/machines/NAME/restart         StopRequest    -> lines of Message
DELETE /v1/machines/NAME                 -> lines of Message
GET    /v1/machines/NAME/ports           list[PublishedPort]
GET    /v1/machines/NAME/logs?source=agent|console|engine&lines=N&follow=0|1   text, chunked
POST   /v1/machines/NAME/exec            ExecRequest, `Upgrade: proa-exec` -> 101 and exec frames

A request that fails before it streams answers 400 (usage), 404, 409 or 500 with a Problem.
Long work streams one Message a line: Progress lines, then exactly one Done or Failed.
"""

from __future__ import annotations

import msgspec

from proa.model.machine import MachineStatus
from proa.model.problem import Problem

API_VERSION = 1


class AgentInfo(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    api: int
    pid: int
    machines: int


class StopRequest(msgspec.Struct, frozen=True, kw_only=True):
    cold: bool = False
    force: bool = False


class ExecRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A command in the guest; empty `argv` is its login shell."""

    argv: tuple[str, ...] = ()
    tty: bool = False
    rows: int = 24
    columns: int = 80
    term: str = "xterm"


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """`step` is a layer or a short word; `fraction` is 0..1 where it is known."""

    step: str
    message: str
    fraction: float | None = None


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    status: MachineStatus


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    problem: Problem


Message = Progress | Done | Failed
