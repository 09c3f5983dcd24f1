"""The agent's checks, as data: what each is called, how it is looked at, and the way out.

A check never raises and is bounded in time; all of one round run at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proa.agent.doctor import facts, judge
from proa.drivers.base import DriverInfo
from proa.images.store import Image
from proa.link.stream import LinkStream
from proa.model.doctor import CheckResult, Verdict, fail, named, ok, skip, warn
from proa.model.errors import ProaError
from proa.model.host_path import this_system, to_guest
from proa.model.machine import MachineState, MachineStatus

if TYPE_CHECKING:
    from proa.agent.agent import Agent

log = logging.getLogger("proa.agent")

BOUND = 20.0  # seconds for one check; an image whose files changed is hashed, which takes some
_EMULATION = (
    "turn on virtualisation (VT-x, AMD-V) in the firmware, or nested virtualisation on a virtual host"
)


class Patient:
    """What the checks look at: one machine of the agent's, or the place where one could be."""

    def __init__(self, agent: Agent, name: str) -> None:
        self.agent = agent
        self.name = name
        self.attendant = agent.find(name)
        self.status: MachineStatus | None = None
        self.hypervisor: DriverInfo | None = None
        self.hypervisor_problem: ProaError | None = None
        self.image: Image | None = None
        self.image_problem: ProaError | None = None
        self.info: dict[str, object] | None = None  # the engine's own description

    async def prepare(self) -> None:
        """What several checks need, once. Never raises ProaError: what failed is kept."""
        if self.attendant is not None:
            self.status = await self.attendant.status()
        try:
            self.image = await asyncio.to_thread(self._find_image)
        except ProaError as error:
            self.image_problem = error
        try:
            kernel = self.image.kernel if self.image else None
            self.hypervisor = await self.agent.driver.inspect(kernel)
        except ProaError as error:
            self.hypervisor_problem = error
        if self.status is not None and self.status.state is MachineState.RUNNING:
            try:
                self.info = await facts.engine_info(self.open)
            except ProaError as error:
                log.info("%s: the engine does not describe itself: %s", self.name, error)

    def _find_image(self) -> Image:
        config = self.agent.store.load(self.name) if self.attendant else None
        images = self.agent.images
        return images.get(config.image) if config and config.image else images.newest()

    async def open(self, target: str, *, extra: Mapping[str, object] | None = None) -> LinkStream:
        return await self.agent.get(self.name).machine.open_stream(target, extra)


async def _hypervisor(patient: Patient) -> Verdict:
    if patient.hypervisor_problem is not None:
        return _failed(patient.hypervisor_problem)
    assert patient.hypervisor is not None
    return ok(f"{patient.agent.driver.name} {patient.hypervisor.version}")


async def _acceleration(patient: Patient) -> Verdict:
    return judge.acceleration(patient.hypervisor)


async def _image(patient: Patient) -> Verdict:
    if patient.image is None:
        assert patient.image_problem is not None
        return _failed(patient.image_problem)
    image = patient.image
    await asyncio.to_thread(patient.agent.images.verify, image)
    return ok(f"{image.id} for {image.manifest.architecture} is there and is what its manifest says")


async def _guest_agent(patient: Patient) -> Verdict:
    session = patient.attendant.machine.session if patient.attendant else None
    told = session.control.latest if session else None
    answered = False
    if session is not None:
        try:
            async with asyncio.timeout(facts.ASK_TIMEOUT):
                await session.control.log("agent", 1)
            answered = True
        except (ProaError, TimeoutError) as error:
            log.info("%s: the guest agent does not answer: %s", patient.name, error)
    return judge.guest_agent(patient.status, told, answered)


async def _engine(patient: Patient) -> Verdict:
    session = patient.attendant.machine.session if patient.attendant else None
    return judge.engine(patient.status, session.control.latest if session else None)


async def _clock(patient: Patient) -> Verdict:
    if idle := judge.not_running(patient.status):
        return idle
    return judge.clock(*await facts.clock(patient.open))


def _without_engine(patient: Patient) -> Verdict | None:
    if idle := judge.not_running(patient.status):
        return idle
    return skip("the engine does not answer") if patient.info is None else None


async def _names(patient: Patient) -> Verdict:
    if patient.info is None:
        return _without_engine(patient) or skip("the engine does not answer")
    wanted = next((target for target in judge.targets(patient.info) if not target.is_address), None)
    return judge.names(wanted, await facts.look_up(patient.open, wanted.host) if wanted else "")


async def _outward(patient: Patient) -> Verdict:
    if patient.info is None:
        return _without_engine(patient) or skip("the engine does not answer")
    targets = judge.targets(patient.info)
    told = await asyncio.gather(*(facts.reach(patient.open, target) for target in targets))
    return judge.outward(list(zip(targets, told, strict=True)))


async def _ports(patient: Patient) -> Verdict:
    if idle := judge.not_running(patient.status):
        return idle
    return judge.ports(patient.attendant.ports() if patient.attendant else ())


async def _shares(patient: Patient) -> Verdict:
    if idle := judge.not_running(patient.status):
        return idle
    if patient.attendant is None:
        return skip("there is no machine")
    told = await patient.attendant.shares_status()
    there = next((folder.path for folder in told.folders if not folder.problem), None)
    if there is None:
        return skip("no folder is shared")
    answered = await facts.ask_share(patient.open, to_guest(there, this_system())) if told.mounted else None
    return judge.shares(told, answered)


@dataclass(frozen=True)
class Check:
    """`hint` is the way out where a verdict names none of its own."""

    name: str
    check: Callable[[Patient], Awaitable[Verdict]]
    hint: str


CHECKS = (
    Check("hypervisor", _hypervisor, "install QEMU: sudo apt install qemu-system-x86, or brew install qemu"),
    Check("acceleration", _acceleration, _EMULATION),
    Check("image", _image, "get one: proa image fetch URL, or make image in a checkout"),
    Check("guest-agent", _guest_agent, "its last words: proa logs --source console; then: proa restart"),
    Check("engine", _engine, "its last words: proa logs --source engine; then: proa restart"),
    Check("clock", _clock, "it is set within seconds; if that lasts: proa restart"),
    Check("names", _names, "look at: proa shell -- cat /etc/resolv.conf"),
    Check("outward", _outward, "is this computer online?"),
    Check("ports", _ports, "see them all: proa ports"),
    Check("shares", _shares, "its last words: proa logs --source agent; then: proa restart"),
)


async def examine(agent: Agent, name: str) -> list[CheckResult]:
    """Every check of the machine `name`, which need not be there. Raises ProaError only for a bad name."""
    patient = Patient(agent, name)
    try:
        async with asyncio.timeout(BOUND):
            await patient.prepare()
    except TimeoutError:
        log.warning("%s: what the checks need was not there within %.0f s", name, BOUND)
    return list(await asyncio.gather(*(_run(check, patient) for check in CHECKS)))


async def _run(check: Check, patient: Patient) -> CheckResult:
    try:
        async with asyncio.timeout(BOUND):
            verdict = await check.check(patient)
    except TimeoutError:
        verdict = warn(f"this could not be looked at within {BOUND:.0f} s", "is this computer very busy?")
    except ProaError as error:
        verdict = _failed(error)
    except Exception as error:
        log.exception("the check %s failed", check.name)
        verdict = fail(
            f"the check itself failed: {type(error).__name__}: {error}",
            "please report this, with: proa diagnose -o proa.tar.gz",
        )
    return named(check.name, verdict, check.hint)


def _failed(error: ProaError) -> Verdict:
    return fail(f"{error.message}: {error.why}" if error.why else error.message, error.hint)
