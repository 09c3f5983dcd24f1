"""Pure judgements of the agent's checks: facts in, a verdict out, in words for a person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from proa.drivers.base import DriverInfo
from proa.link.control import GuestStatus, clock_off
from proa.model.api import SharesStatus
from proa.model.doctor import Verdict, fail, ok, skip, warn
from proa.model.machine import MachineState, MachineStatus, PublishedPort
from proa.model.sizes import GIB, MIB

CLOCK_TOLERANCE = 1.0  # seconds; more than that and certificates, tokens and `make` begin to go wrong
LEAST_GUEST_DISK = 1 * GIB
HTTP, HTTPS = 80, 443
MOST_TARGETS = 4
MOST_SHOWN = 200  # characters of what a guest or an engine said


def acceleration(info: DriverInfo | None) -> Verdict:
    """`info` None: there is no hypervisor; an empty accelerator: nothing was proved yet."""
    if info is None:
        return skip("there is no hypervisor to accelerate")
    if not info.accelerator:
        return skip("not known yet: the first start finds out with a real boot")
    if info.accelerator == "tcg":
        return warn(f"the guest is emulated in software, 10 to 20 times slower: {info.reason}")
    return ok(f"{info.accelerator}: {info.reason}")


def guest_agent(status: MachineStatus | None, told: GuestStatus | None, answered: bool) -> Verdict:
    """`told` is the guest's last word, `answered` whether it answered just now."""
    if idle := not_running(status):
        return idle
    if told is None:
        return fail("the guest has not said a word yet")
    if not answered:
        return fail("the guest does not answer any more")
    return ok(f"version {told.agent[:20] or 'unknown'}, the guest is up {duration(told.uptime)}")


def not_running(status: MachineStatus | None) -> Verdict | None:
    """Why nothing in the guest can be looked at; None where it can."""
    if status is None or status.state is MachineState.ABSENT:
        return skip("there is no machine yet")
    if status.state in (MachineState.RUNNING, MachineState.STARTING):
        return None
    if status.state is MachineState.BROKEN and status.pid is not None:
        return None
    return skip(f"the machine is {status.state}")


def engine(status: MachineStatus | None, told: GuestStatus | None) -> Verdict:
    if status is None or status.state is MachineState.ABSENT:
        return skip("there is no machine yet", "make and start it: proa start")
    if status.state is MachineState.RUNNING:
        if status.problem is not None:
            return warn(_words(status.problem.message, status.problem.why), status.problem.hint)
        return _engine_well(status, told)
    if status.problem is not None:
        return fail(_words(status.problem.message, status.problem.why), status.problem.hint)
    return skip(f"the machine is {status.state}", f"start it: proa start {status.name}")


def _more_room(name: str) -> str:
    return (
        f"make room: proa docker --machine {name} system prune; "
        f"or a larger disk: proa config set --machine {name} disk 120GiB"
    )


def _engine_well(status: MachineStatus, told: GuestStatus | None) -> Verdict:
    if told is not None and told.disk.state == "full":
        return warn(
            f"Docker {status.engine.version} answers, but the machine's disk is full",
            _more_room(status.name),
        )
    if told is not None and told.disk.size and told.disk.free < LEAST_GUEST_DISK:
        return warn(
            f"Docker {status.engine.version} answers; its disk has {told.disk.free // MIB} MiB left",
            _more_room(status.name),
        )
    restarts = sum(service.restarts for service in told.services.values()) if told else 0
    if restarts:
        return warn(
            f"Docker {status.engine.version} answers; services of the guest ended and were restarted"
            f" {restarts} times",
            f"why: proa logs {status.name} --source engine; or --source containerd",
        )
    return ok(f"Docker {status.engine.version} answers")


def clock(before: float, guest: float, after: float) -> Verdict:
    """`guest` was read between `before` and `after` (seconds since 1970, the host's)."""
    off = clock_off(before, guest, after)
    if abs(off) <= CLOCK_TOLERANCE:
        return ok("the guest's clock agrees with this computer's")
    which = "ahead" if off > 0 else "behind"
    return fail(f"the guest's clock is {duration(abs(off))} {which}: certificates and logs go wrong")


@dataclass(frozen=True)
class Target:
    """Where the engine gets its images: a mirror, a proxy, or the registry."""

    what: str
    host: str
    port: int

    @property
    def is_address(self) -> bool:
        return ":" in self.host or self.host.replace(".", "").isdigit()


def targets(info: dict[str, Any]) -> tuple[Target, ...]:
    """Where a pull connects to, from the engine's own `/info`: its proxy, or mirrors, or its registry."""
    proxies = [info.get("HttpsProxy"), info.get("HttpProxy")]
    if found := _targets("the proxy", proxies):
        return found
    registries = info.get("RegistryConfig")
    mirrors = registries.get("Mirrors") if isinstance(registries, dict) else None
    if found := _targets("the mirror", mirrors if isinstance(mirrors, list) else []):
        return found
    return _targets("the registry", [info.get("IndexServerAddress")])


def _targets(what: str, urls: list[Any]) -> tuple[Target, ...]:
    found = []
    for url in urls:
        if not isinstance(url, str) or not url:
            continue
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError:
            continue
        if host and len(host) < 256 and host.isprintable():
            found.append(Target(what, host, port or (HTTP if parts.scheme == "http" else HTTPS)))
    return tuple(dict.fromkeys(found))[:MOST_TARGETS]


def shares(status: SharesStatus, round_trip: float | None) -> Verdict:
    """`round_trip` is in seconds, None where the guest got no answer about a folder."""
    missing = next((folder for folder in status.folders if folder.problem), None)
    if not status.mounted:
        return fail("the machine has none of this computer's folders", "")
    if round_trip is None:
        return fail("the machine asks for this computer's folders and gets no answer", "")
    if status.problem:
        hint = "those are slower, and who watches them in a container hears nothing; see: proa shares"
        return warn(f"not all folders can be watched: {status.problem}", hint)
    if missing is not None:
        return warn(f"{missing.path}: {missing.problem}", "see: proa shares")
    return ok(f"they answer within {1000 * round_trip:.0f} ms; changes of {status.watches} of them are told")


def names(wanted: Target | None, problem: str) -> Verdict:
    """`problem` is what the guest's resolver said, empty where it found an address."""
    if wanted is None:
        return skip("nothing to look up: the engine gets its images by address")
    if problem:
        return warn(
            f"the guest cannot look up {wanted.host}: {problem[:MOST_SHOWN]}",
            "is this computer online? A VPN or a firewall may hinder it; what is there already works offline",
        )
    return ok(f"{wanted.host} is found from the guest")


def outward(results: list[tuple[Target, str]]) -> Verdict:
    """Each target with why it could not be reached, empty where it could."""
    if not results:
        return skip("the engine does not say where it gets images from")
    failed = [(target, why) for target, why in results if why]
    if not failed:
        reached = ", ".join(f"{target.host}:{target.port}" for target, _ in results)
        return ok(f"the guest reaches {results[0][0].what}: {reached}")
    target, why = failed[0]
    return warn(
        f"the guest does not reach {target.what} {target.host}:{target.port}: {why[:MOST_SHOWN]}",
        "images cannot be pulled now, all else works; is this computer online, or does it need a proxy?",
    )


def ports(published: tuple[PublishedPort, ...]) -> Verdict:
    broken = [port for port in published if port.problem is not None]
    if not broken:
        count = len(published)
        return ok("no published ports" if not count else f"published ports: {count}, all bound")
    first = broken[0]
    assert first.problem is not None
    more = f" (and {len(broken) - 1} more: proa ports)" if len(broken) > 1 else ""
    return warn(_words(first.problem.message, first.problem.why) + more, first.problem.hint)


def duration(seconds: float) -> str:
    """`5 s`, `3 min`, `4 h`, `2 days`."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            shown = f"{seconds:.1f}" if unit == 1 and seconds < 10 else f"{seconds / unit:.0f}"
            return f"{shown} {name}"
    return f"{seconds / 86400:.0f} days"


def _words(message: str, why: str) -> str:
    return f"{message}: {why}"[:400] if why else message
