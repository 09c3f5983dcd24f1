"""The checks that need no agent, as data: this computer, the sockets, and the user's own Docker tools.

A check never raises and is bounded in time; all of one round run at once, beside the agent's.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from proa.agent.client import AgentClient
from proa.cli import doctor_judge as judge
from proa.cli.common import machine_names
from proa.cli.docker import choose, find_program, image_cli, plugin_missing
from proa.cli.doctor_judge import SocketFacts, Tool
from proa.model.api import AgentInfo
from proa.model.doctor import AGENT_CHECKS, ORDER, CheckResult, Verdict, fail, named, skip
from proa.model.errors import ProaError
from proa.model.machine import MachineState, MachineStatus
from proa.system.docker_settings import DockerSettings, docker_folder
from proa.system.locks import is_held
from proa.system.memory import available_memory, free_disk, total_memory
from proa.system.paths import Places
from proa.system.processes import run
from proa.system.sockets import answers

TOOL_TIMEOUT = 10.0  # seconds for a Docker CLI or plugin to say its version
_VERSION = re.compile(r"\bv?(\d+\.\d+[\w.+~-]*)")
_TEMPORARY = re.compile(r"^\..+\.[0-9a-f]{8}$")  # proa.system.files.write_atomic's


@dataclass
class Surroundings:
    """What the checks look at."""

    places: Places
    name: str
    environ: Mapping[str, str]
    client: AgentClient | None
    problem: ProaError | None  # why there is no agent
    info: AgentInfo | None = None
    machines: list[MachineStatus] = field(default_factory=list)

    def ask(self) -> None:
        """The agent's own words, once. Never raises ProaError."""
        if self.client is None:
            return
        try:
            self.info = self.client.info()
            self.machines = self.client.machines()
        except ProaError as error:
            self.problem = self.problem or error

    @property
    def status(self) -> MachineStatus | None:
        return next((status for status in self.machines if status.name == self.name), None)

    def machine_names(self) -> list[str]:
        return machine_names(self.places.machines)


def _agent(around: Surroundings) -> Verdict:
    return judge.agent(around.info, around.problem)


def _disk(around: Surroundings) -> Verdict:
    folder = around.places.machines
    return judge.disk(free_disk(folder), str(folder))


def _memory(around: Surroundings) -> Verdict:
    status = around.status
    running = status is not None and status.pid is not None
    wanted = status.memory if status else 0
    return judge.memory(total_memory(), available_memory(), wanted, running=running)


def _socket(around: Surroundings) -> Verdict:
    # Not MachinePaths.engine_socket, which refuses a path that is too long: here that is a finding.
    path = around.places.run / around.name / "docker.sock"
    if not hasattr(os, "geteuid"):
        return skip("the engine's named pipe is not looked at yet")
    facts = _socket_facts(path)
    return judge.socket(facts, os.geteuid(), machine_exists=around.name in around.machine_names())


def _socket_facts(path: Path) -> SocketFacts:
    length = len(os.fsencode(path))
    folder, found = _lstat(path.parent), _lstat(path)
    return SocketFacts(
        path=str(path),
        length=length,
        folder_owner=folder.st_uid if folder else None,
        folder_mode=stat.S_IMODE(folder.st_mode) if folder else None,
        owner=found.st_uid if found else None,
        mode=stat.S_IMODE(found.st_mode) if found else None,
        is_socket=found is not None and stat.S_ISSOCK(found.st_mode),
        answers=found is not None and length < 104 and answers(path),
    )


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None


def tool(name: str, argv: list[str], environ: Mapping[str, str]) -> Tool | None:
    """A Docker CLI or plugin as `proa docker` would take it; None where that is the guest's."""
    chosen = choose(argv, environ)
    if chosen is None:
        return None
    program, words = chosen
    ours = image_cli(environ)
    is_ours = bool(ours) and program.startswith(f"{ours}{os.sep}")
    if name != "docker" and not is_ours and _host_lacks(name, environ):
        return None
    try:
        # Without DOCKER_HOST and the like: a version is asked of the program alone.
        plain = {key: value for key, value in environ.items() if not key.startswith("DOCKER_")}
        done = run([program, *words], timeout=TOOL_TIMEOUT, env=plain)
    except ProaError:
        return Tool(name, program, is_ours, "")
    found = _VERSION.search(done.stdout.decode("utf-8", "replace")) if done.status == 0 else None
    return Tool(name, program, is_ours, found[1] if found else "")


def _host_lacks(name: str, environ: Mapping[str, str]) -> bool:
    docker = find_program("docker", environ.get("PATH", os.defpath))
    return docker is None or plugin_missing(name, f"docker-{name}", environ)


def _docker_cli(around: Surroundings) -> Verdict:
    return judge.docker_cli(tool("docker", ["--version"], around.environ))


def _plugins(around: Surroundings) -> Verdict:
    found = {name: tool(name, [name, "version"], around.environ) for name in ("compose", "buildx")}
    missing = [name for name, plugin in found.items() if plugin is None]
    return judge.plugins([plugin for plugin in found.values() if plugin], missing)


def docker_config(environ: Mapping[str, str]) -> dict[str, object]:
    """The Docker CLI's own config, empty where there is none or it cannot be read."""
    try:
        return DockerSettings(docker_folder(environ)).read()
    except ProaError:
        return {}


def _context(around: Surroundings) -> Verdict:
    names = {around.name, *around.machine_names()}
    sockets = {name: str(around.places.run / name / "docker.sock") for name in names}
    current = docker_config(around.environ).get("currentContext")
    return judge.context(around.environ, current if isinstance(current, str) else "", sockets)


def _leftovers(around: Surroundings) -> Verdict:
    return judge.leftovers(list(_left_over(around.places, around.machines)))


def _left_over(places: Places, machines: list[MachineStatus]) -> Iterator[str]:
    yield from _half_made(places)
    for folder in (places.run, places.cache, *_folders(places.machines), *_folders(places.run)):
        for entry in _entries(folder):
            if _TEMPORARY.match(entry.name) and entry.is_file():
                yield f"{entry}, of a write that was cut short"
    for status in machines:
        idle = status.pid is None and status.state in (MachineState.STOPPED, MachineState.BROKEN)
        if idle and is_held(places.machine(status.name).lock):
            yield f"a hypervisor of {status.name!r} that the agent does not know (proa start ends it)"


def _half_made(places: Places) -> Iterator[str]:
    names = set(machine_names(places.machines))
    for folder in _folders(places.run):
        if folder.name not in names and (folder / "docker.sock").exists():
            yield f"{folder}, of a machine that is not there any more"
    for parent, marks in ((places.machines, (".new-", ".old-")), (places.images, (".partial-",))):
        for folder in _folders(parent):
            if folder.name.startswith(marks):
                yield f"{folder}, of work that was cut short"


def _folders(parent: Path) -> list[Path]:
    return [entry for entry in _entries(parent) if entry.is_dir() and not entry.is_symlink()]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


@dataclass(frozen=True)
class Check:
    """`hint` is the way out where a verdict names none of its own."""

    name: str
    check: Callable[[Surroundings], Verdict]
    hint: str


CHECKS = (
    Check("agent", _agent, "its log: proa logs --source agent"),
    Check("disk", _disk, "free some disk space"),
    Check("memory", _memory, "give the machine less: proa config set memory 2GiB"),
    Check("socket", _socket, "make it anew: end the agent (proa version names it); the next verb starts one"),
    Check(
        "docker-cli",
        _docker_cli,
        "install one (docker-cli), or get a guest image, which brings one: proa image fetch URL",
    ),
    Check(
        "plugins",
        _plugins,
        "install them (docker-compose, docker-buildx), or get a guest image: proa image fetch URL",
    ),
    Check("context", _context, "`proa docker` talks to Proa in any case"),
    Check("leftovers", _leftovers, "the next start clears most of it; what stays: proa reset --keep-data"),
)


def examine(around: Surroundings) -> list[CheckResult]:
    """All checks, the agent's among them, in the order in which a person reads them. Never raises."""
    around.ask()
    with ThreadPoolExecutor(max_workers=len(CHECKS) + 1, thread_name_prefix="check") as pool:
        agents = pool.submit(_agents_half, around)
        own = [(check, pool.submit(check.check, around)) for check in CHECKS]
        found = [*agents.result(), *(_outcome(check, work) for check, work in own)]
    places = {name: index for index, name in enumerate(ORDER)}
    return sorted(found, key=lambda result: places.get(result.name, len(places)))


def _agents_half(around: Surroundings) -> list[CheckResult]:
    why = around.problem
    if around.client is not None:
        try:
            return around.client.doctor(around.name)
        except ProaError as error:
            why = error
    reason = f"the agent cannot be asked: {why.message}" if why else "the agent cannot be asked"
    return [named(name, skip(reason)) for name in AGENT_CHECKS]


def _outcome(check: Check, work: Future[Verdict]) -> CheckResult:
    try:
        verdict = work.result()
    except ProaError as error:
        verdict = fail(f"{error.message}: {error.why}" if error.why else error.message, error.hint)
    except Exception as error:  # noqa: BLE001  (a doctor that falls ill helps nobody)
        words = f"the check itself failed: {type(error).__name__}: {error}"
        verdict = fail(words, "please report this, with: proa diagnose -o proa.tar.gz")
    return named(check.name, verdict, check.hint)
