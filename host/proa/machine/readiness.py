"""What a boot waits for, layer by layer, so that a start that fails names its layer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proa.drivers.base import ExitReason
from proa.link.control import GuestStatus
from proa.machine.lifecycle import BOUNDS
from proa.machine.session import Session
from proa.model.errors import ProaError
from proa.model.settings import mask
from proa.system.files import tail

TAIL = 8  # lines of a log that a person will still read
SERVICE_LOGS = {"containerd": "containerd", "engine": "dockerd", "network": "init"}
# Restarts of a service in a row after which a start says so instead of waiting for its bound.
HOPELESS_RESTARTS = 4

Say = Callable[[str, str], None]  # (step, message)


@dataclass(frozen=True)
class Requirement:
    """One layer: what it is called, what is waited for, and what is said when it does not come."""

    layer: str
    description: str
    wait: Callable[[Session, float], Coroutine[Any, Any, None]]
    code: str
    hint: str


async def _agent_speaks(session: Session, timeout: float) -> None:
    await session.control.wait_until(lambda status: True, timeout)


def _until(ready: Callable[[GuestStatus], bool]) -> Callable[[Session, float], Coroutine[Any, Any, None]]:
    async def wait(session: Session, timeout: float) -> None:
        status = await session.control.wait_until(
            lambda now: ready(now) or hopeless(now) is not None, timeout
        )
        problem = hopeless(status)
        if problem is not None and not ready(status):
            raise problem

    return wait


def hopeless(status: GuestStatus) -> ProaError | None:
    """A ProaError where the guest says that waiting is of no use."""
    if status.disk.state in ("damaged", "missing"):
        return ProaError(
            f"data-disk-{status.disk.state}",
            f"the machine's data disk is {status.disk.state}",
            why=status.disk.message,
            hint="the disk is kept as it is; look at: proa logs --source console",
            layer="engine",
        )
    if status.network.state == "failed":
        return ProaError(
            "guest-network-failed", "the guest has no network", why=status.network.message, layer="network"
        )
    for service, layer in (("containerd", "containerd"), ("dockerd", "engine")):
        state = status.services.get(service)
        if state is not None and state.restarts and "unable to configure the Docker daemon" in state.message:
            return _daemon_refused(mask(state.message))
        if state is not None and state.failures >= HOPELESS_RESTARTS and state.state in ("failed", "backoff"):
            why = state.message
            if status.disk.state == "full":
                why = f"the machine's disk is full ({why})"
            return ProaError(f"{layer}-fails", f"{service} does not start in the guest", why=why, layer=layer)
    return None


def _daemon_refused(why: str) -> ProaError:
    return ProaError(
        "daemon-config-refused",
        "the engine refuses its configuration",
        why=why,
        hint="take the key away: proa config unset daemon.KEY (proa config list shows what is set)",
        layer="engine",
    )


def _service_ready(name: str) -> Callable[[GuestStatus], bool]:
    def ready(status: GuestStatus) -> bool:
        state = status.services.get(name)
        return state is not None and state.state == "ready"

    return ready


def _welcome_loaded(status: GuestStatus) -> bool:
    """Only a new disk has to wait. Where loading failed, the engine is of use all the same."""
    welcome = status.services.get("welcome")
    return welcome is None or welcome.state not in ("waiting", "starting")


REQUIREMENTS = (
    Requirement(
        "guest-agent",
        "the guest answers on the link",
        _agent_speaks,
        "guest-agent-silent",
        "look at the whole console: proa logs --source console",
    ),
    Requirement(
        "network",
        "the guest's network is up",
        _until(lambda status: status.network.state == "ready"),
        "guest-network-silent",
        "look at the whole console: proa logs --source console",
    ),
    Requirement(
        "containerd",
        "containerd is ready",
        _until(_service_ready("containerd")),
        "containerd-silent",
        "try again: proa restart; or give it more memory: proa config set memory 4GiB",
    ),
    Requirement(
        "engine",
        "the engine answers",
        _until(lambda status: status.engine.state == "ready"),
        "engine-silent",
        "try again: proa restart; or look at daemon's keys: proa config list",
    ),
    Requirement(
        "engine",
        "the welcome image is loaded",
        _until(_welcome_loaded),
        "welcome-not-loaded",
        "the engine's log has the reason: proa logs --source engine",
    ),
)


async def wait_ready(session: Session, accelerator: str, console: Path, say: Say) -> None:
    """Wait for all layers. Raises ProaError with the layer's name and the last lines of its log."""
    for requirement in REQUIREMENTS:
        say(requirement.layer, f"waiting until {requirement.description}")
        await _wait_for(session, requirement, BOUNDS[requirement.layer].seconds(accelerator), console)


async def _wait_for(session: Session, requirement: Requirement, bound: float, console: Path) -> None:
    waiting = session.tasks.start(requirement.wait(session, bound), name=f"wait for {requirement.layer}")
    try:
        either: set[asyncio.Future[Any]] = {waiting, session.hypervisor.ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ended(session.hypervisor.ended.result(), console)
        try:
            waiting.result()
        except TimeoutError as error:
            raise ProaError(
                requirement.code,
                f"the machine did not come up: {requirement.description} was not so within {bound:.0f} s",
                hint=requirement.hint,
                layer=requirement.layer,
            ) from error
    except ProaError as error:
        if not error.log:
            error.log = await _log_of(session, error.layer, console)
        if not error.why and error.log:
            error.why = error.log[-1]
        raise
    finally:
        waiting.cancel()


async def _log_of(session: Session, layer: str, console: Path) -> tuple[str, ...]:
    """The last lines of the log that belongs to the layer; the console's where the guest cannot be asked."""
    if layer in SERVICE_LOGS and not session.hypervisor.ended.done():
        try:
            async with asyncio.timeout(10):
                if lines := await session.control.log(SERVICE_LOGS[layer], TAIL):
                    return lines
        except (ProaError, TimeoutError):
            pass  # then the console must do
    return tail(console, TAIL)


def ended(reason: ExitReason, console: Path) -> ProaError:
    """What to say of a hypervisor that is gone: a panic of the guest, or its own death."""
    lines = tail(console, TAIL)
    panic = next((line for line in tail(console, 200) if "Kernel panic" in line), "")
    if panic or reason is ExitReason.RESET:
        return ProaError(
            "guest-panicked",
            "the guest's kernel gave up",
            why=panic or "the guest rebooted by itself",
            hint="try again: proa start; the console has the details: proa logs --source console",
            layer="kernel",
            log=lines,
        )
    if reason is ExitReason.POWER_OFF:
        return ProaError(
            "guest-powered-off",
            "the guest switched itself off",
            hint="try again: proa start; the console has the details: proa logs --source console",
            layer="kernel",
            log=lines,
        )
    return ProaError(
        "hypervisor-died",
        "the hypervisor ended while the machine started",
        why="it was killed, or it crashed",
        hint="try again: proa start",
        layer="hypervisor",
        log=lines,
    )
