"""Pure judgements of the checks that need no agent: facts in, a verdict out, in words for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proa.model.api import AgentInfo
from proa.model.doctor import Verdict, fail, ok, skip, warn
from proa.model.errors import ProaError
from proa.model.sizes import GIB, MIB
from proa.system.roots import MAX_SOCKET_PATH

LEAST_DISK, LITTLE_DISK = 256 * MIB, 5 * GIB
MUCH_MEMORY = 256 * MIB  # resident bytes of an agent that are more than it needs (DESIGN.md: 60 MiB)


def agent(info: AgentInfo | None, problem: ProaError | None) -> Verdict:
    if info is None:
        if problem is None:
            return fail("the agent does not answer")
        return fail(f"{problem.message}: {problem.why}" if problem.why else problem.message, problem.hint)
    memory = f", {info.memory // MIB} MiB" if info.memory else ""
    told = f"version {info.version}, pid {info.pid}, up {minutes(info.uptime)}{memory}"
    if info.memory > MUCH_MEMORY:
        return warn(
            f"{told}: that is a lot of memory",
            f"end it, machines go on running: kill {info.pid}; the next verb starts a new one",
        )
    return ok(told)


def disk(free: int, folder: str) -> Verdict:
    room = f"{free / GIB:.1f} GiB free at {folder}"
    if free < LEAST_DISK:
        return fail(f"{room}: no machine can start", "free some disk space")
    if free < LITTLE_DISK:
        return warn(
            f"{room}: a few images will fill it", "free some disk space, or set PROA_HOME to another disk"
        )
    return ok(room)


def memory(total: int, available: int | None, wanted: int, *, running: bool) -> Verdict:
    """`wanted` is what the machine is to have, 0 where there is none."""
    told = f"{total / GIB:.1f} GiB in all"
    if available is not None:
        told += f", {available / GIB:.1f} GiB free"
    if wanted > total:
        return fail(
            f"the machine wants {wanted / GIB:.1f} GiB, and this computer has {told}",
            "choose less, half of it for example: proa config set memory 2GiB",
        )
    if not running and available is not None and wanted > available:
        return warn(
            f"the machine wants {wanted / GIB:.1f} GiB, and this computer has {told}",
            "end something large, or give the machine less: proa config set memory 2GiB",
        )
    return ok(told)


@dataclass(frozen=True)
class SocketFacts:
    """The engine's socket as it is on disk; modes are permission bits, None where there is nothing."""

    path: str
    length: int  # bytes
    folder_owner: int | None = None
    folder_mode: int | None = None
    owner: int | None = None
    mode: int | None = None
    is_socket: bool = False
    answers: bool = False


def socket(facts: SocketFacts, user: int, *, machine_exists: bool) -> Verdict:
    problem = _folder_problem(facts, user) or _file_problem(facts, user)
    if facts.mode is None and problem is None:
        return (
            fail(f"{facts.path} is not there")
            if machine_exists
            else skip(f"{facts.path} will be made with it")
        )
    if problem is not None:
        return problem
    if not facts.answers:
        return fail(f"nobody answers at {facts.path}")
    return ok(f"{facts.path} ({facts.length} of {MAX_SOCKET_PATH} bytes), private to you")


def _folder_problem(facts: SocketFacts, user: int) -> Verdict | None:
    if facts.length > MAX_SOCKET_PATH:
        return fail(
            f"{facts.path} has {facts.length} bytes, and the system allows {MAX_SOCKET_PATH}",
            "choose a shorter PROA_HOME or machine name",
        )
    if facts.folder_owner is not None and facts.folder_owner != user:
        return fail(f"the folder of {facts.path} belongs to another user (id {facts.folder_owner})")
    if facts.folder_mode is not None and facts.folder_mode & 0o077:
        return fail(f"the folder of {facts.path} is open to others (mode {facts.folder_mode:o})")
    return None


def _file_problem(facts: SocketFacts, user: int) -> Verdict | None:
    if facts.mode is None:
        return None
    if not facts.is_socket:
        return fail(f"{facts.path} is not a socket", f"move it away: mv {facts.path} {facts.path}.old")
    if facts.owner != user:
        return fail(f"{facts.path} belongs to another user (id {facts.owner})")
    if facts.mode & 0o077:
        return fail(f"{facts.path} is open to others (mode {facts.mode:o})", f"chmod 600 {facts.path}")
    return None


@dataclass(frozen=True)
class Tool:
    """A program that was found: whose it is, and what it says of its version (empty: it does not run)."""

    name: str
    path: str
    ours: bool  # it came with the guest image
    version: str

    @property
    def told(self) -> str:
        whose = "the guest image's" if self.ours else "this computer's"
        return f"{self.name} {self.version or '(does not run)'}, {whose}"


def docker_cli(tool: Tool | None) -> Verdict:
    if tool is None:
        return warn("no Docker CLI can be run here: `proa docker` runs the machine's own")
    if not tool.version:
        return fail(f"{tool.path} does not say its version: it may be broken")
    return ok(tool.told)


def plugins(tools: Sequence[Tool], missing: Sequence[str]) -> Verdict:
    broken = [tool for tool in tools if not tool.version]
    told = "; ".join(tool.told for tool in tools)
    if broken:
        return warn(f"{broken[0].path} does not run", "install it again")
    if missing:
        lacks = f"for {' and '.join(missing)} `proa docker` uses the machine's own"
        return warn(f"{lacks}; {told}" if told else lacks)
    return ok(told)


def context(environ: Mapping[str, str], current: str, sockets: Mapping[str, str]) -> Verdict:
    """What plain `docker` talks to: `current` is its config's context, `sockets` machine -> its socket."""
    ours = {f"unix://{path}": name for name, path in sockets.items()}
    if environ.get("DOCKER_TLS_VERIFY") and environ.get("DOCKER_HOST", "").startswith("unix:"):
        return warn(
            "DOCKER_TLS_VERIFY is set: docker will try TLS on a local socket, and fail",
            "unset DOCKER_TLS_VERIFY",
        )
    if host := environ.get("DOCKER_HOST"):
        if host in ours:
            return ok(f"plain `docker` in this shell talks to {ours[host]!r} (DOCKER_HOST)")
        return warn(
            f"DOCKER_HOST is {without_user(host)}: plain `docker` in this shell talks to that, not to Proa",
            'unset DOCKER_HOST; or: eval "$(proa env)". `proa docker` talks to Proa in any case',
        )
    chosen = environ.get("DOCKER_CONTEXT") or current
    source = "DOCKER_CONTEXT" if environ.get("DOCKER_CONTEXT") else "its current context"
    machine = {f"proa-{name}": name for name in sockets} | {"proa": "default"}
    if chosen in machine:
        return ok(f"plain `docker` talks to {machine[chosen]!r} ({source} is {chosen})")
    if chosen and chosen != "default":
        return warn(
            f"plain `docker` talks to {chosen!r} and not to Proa ({source})",
            'to change that here: eval "$(proa env)". `proa docker` talks to Proa in any case',
        )
    return ok(
        'plain `docker` uses its own default; `proa docker`, or a shell with eval "$(proa env)", uses Proa'
    )


def leftovers(found: Sequence[str]) -> Verdict:
    if not found:
        return ok("nothing is left over")
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return warn(f"left over: {found[0]}{more}")


def without_user(url: str) -> str:
    """`url` without user and password: it is shown on a screen."""
    scheme, found, rest = url.partition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}" if found else url


def minutes(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
