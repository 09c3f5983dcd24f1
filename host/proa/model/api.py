"""The agent's HTTP API on its private socket, as types. All bodies are JSON.

GET    /v1/agent                         AgentInfo
GET    /v1/machines                      list[MachineStatus]
GET    /v1/machines/NAME                 MachineStatus (state `absent` where there is none)
POST   /v1/machines/NAME/create          MachineOptions -> lines of Message
POST   /v1/machines/NAME/start           MachineOptions -> lines of Message (makes it if there is none)
POST   /v1/machines/NAME/stop            StopRequest    -> lines of Message
POST   /v1/machines/NAME/restart         StopRequest    -> lines of Message
DELETE /v1/machines/NAME                 -> lines of Message
GET    /v1/images                        list[ImageInfo], the newest first
POST   /v1/images/build                  BuildRequest   -> lines of Message, Done with ImageInfo
POST   /v1/images/fetch                  FetchRequest   -> lines of Message, Done with ImageInfo
POST   /v1/images/import                 ImportRequest  -> lines of Message, Done with ImageInfo
POST   /v1/images/verify?id=ID           -> lines of Message, Done with ImageInfo (without ID: the newest)
POST   /v1/images/prune                  -> lines of Message, Done with list[ImageInfo]: what was removed
DELETE /v1/images/ID                     -> lines of Message, Done with ImageInfo
GET    /v1/machines/NAME/ports           list[PublishedPort]
GET    /v1/machines/NAME/logs?source=agent|console|engine&lines=N&follow=0|1   text, chunked
POST   /v1/machines/NAME/exec            ExecRequest, `Upgrade: proa-exec` -> 101 and exec frames

A request that fails before it streams answers 400 (usage), 404, 409 or 500 with a Problem.
Long work streams one Message a line: Progress lines, then exactly one Done or Failed.
What is done to a machine is done with its MachineStatus.
"""

from __future__ import annotations

import msgspec

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
    result: msgspec.Raw  # what the route's line above says, as JSON


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    problem: Problem


Message = Progress | Done | Failed
