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
GET    /v1/machines/NAME/config?reveal=0|1 list[SettingValue], passwords hidden unless asked for
GET    /v1/machines/NAME/config/KEY      SettingValue
POST   /v1/machines/NAME/config          ConfigChange -> ConfigChanged
GET    /v1/images                        list[ImageInfo], the newest first
POST   /v1/images/build                  BuildRequest   -> lines of Message, Done with ImageInfo
POST   /v1/images/fetch                  FetchRequest   -> lines of Message, Done with ImageInfo
POST   /v1/images/import                 ImportRequest  -> lines of Message, Done with ImageInfo
POST   /v1/images/verify?id=ID           -> lines of Message, Done with ImageInfo (without ID: the newest)
POST   /v1/images/prune                  -> lines of Message, Done with list[ImageInfo]: what was removed
DELETE /v1/images/ID                     -> lines of Message, Done with ImageInfo
GET    /v1/machines/NAME/ports           list[PublishedPort]
GET    /v1/machines/NAME/shares          SharesStatus
GET    /v1/machines/NAME/doctor          list[CheckResult] (the agent's half of `proa doctor`)
GET    /v1/machines/NAME/logs?source=S&lines=N&follow=0|1   text, chunked; S is one of LOG_SOURCES
GET    /v1/events?lines=N&follow=0|1&machine=NAME     lines of Event; without `machine` of all
POST   /v1/machines/NAME/exec            ExecRequest, `Upgrade: proa-exec` -> 101 and exec frames
POST   /v1/machines/NAME/docker          DockerRequest, the same; with questions for credentials

A client may tell with any request, in the header `Proa-Docker`, what its shell has chosen (DockerChoice as
JSON, percent-encoded): docker contexts are made and removed in that shell's Docker folder.

Every answer carries the header `Proa-Agent`: the agent's version and API_VERSION. A MachineStatus is written
for people where `Accept` asks for text/plain.

A request that fails before it streams answers 400 (usage), 404, 409 or 500 with a Problem.
Long work streams one Message a line: Progress lines, then exactly one Done or Failed.
What is done to a machine is done with its MachineStatus.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from proa.model.problem import Problem

DOCKER_HEADER = "Proa-Docker"
VERSION_HEADER = "Proa-Agent"
# The engine's, containerd's and the guest agent's logs are in the guest; the others are on the host.
LOG_SOURCES = ("agent", "console", "engine", "containerd", "guest")


class SharedFolder(msgspec.Struct, frozen=True, kw_only=True):
    """One folder that containers may mount."""

    path: str
    writable: bool
    problem: str = ""  # why it cannot be had
    known: int = 0  # files and folders of it that the guest knows, and need not ask for again


class SlowRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request of the guest's that took long."""

    operation: str  # FUSE's name for it in small letters: lookup, read, fsync …
    seconds: float


class SharesStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of `proa shares --json`."""

    folders: tuple[SharedFolder, ...]
    mounted: bool  # the guest has them; not while it is stopped or asleep
    known: int = 0  # files that the guest knows
    open: int = 0  # files and folders that are open in it
    asked: int = 0  # requests of the guest's since the server began
    rate: float = 0.0  # of them in a second, over the last ten
    slowest: SlowRequest | None = None  # of the last minute
    watches: int = 0  # folders and files whose changes on this computer are told to the guest
    events: int = 0  # changes that were told to those who watch there
    confined: bool = False  # the system itself keeps their server from all else of this computer
    problem: str = ""  # why some are not told


class AgentInfo(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    api: int
    pid: int
    machines: int
    uptime: float = 0.0  # seconds
    memory: int = 0  # bytes that are resident, 0 where the system does not tell us


class DockerChoice(msgspec.Struct, frozen=True, kw_only=True):
    """`config` is the absolute folder of the Docker CLI's files; nothing is chosen where `may_be_current`."""

    config: str
    may_be_current: bool = False


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


class DockerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The guest's Docker CLI, run as if it were the host's (proa_guest.call)."""

    argv: tuple[str, ...]
    cwd: str
    home: str
    environ: dict[str, str]
    settings: dict[str, Any]  # of the user's config.json, without keys and logins
    terminals: tuple[bool, bool, bool]  # which of stdin, stdout, stderr are one
    rows: int = 24
    columns: int = 80


class SettingValue(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of a machine; the shape of `proa config get --json`."""

    key: str
    value: Any  # the default where nothing is given
    given: bool
    default: Any
    type: str
    effect: str  # `live` or `restart`
    help: str


class ConfigChange(msgspec.Struct, frozen=True, kw_only=True):
    """Keys with new values in the form of machine.toml; null takes a key away."""

    changes: dict[str, Any]


class ConfigChanged(msgspec.Struct, frozen=True, kw_only=True):
    """`live`: in force; `restart`, `start`: with that; `none`: it was so already."""

    effect: Literal["live", "restart", "start", "none"]


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
