"""The order of save and restore in a model world, where every step fails in every way."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest

from proa.machine.sleep.order import (
    RESTORE,
    SAVE,
    Left,
    Step,
    after_crash,
    after_failed_restore,
    after_failed_save,
)


class Broken(Exception):
    """The model's invariant does not hold."""


@dataclass
class World:
    """One machine: its disk has a generation, which moves whenever the guest runs."""

    disk: int = 1
    guest: str = "running"  # `running`, `paused`, `loaded` (never ran), `waiting` (for an image), `none`
    frozen: bool = False
    mended: bool = True
    partial: int | None = None  # the disk's generation that an image belongs to
    ready: int | None = None
    used: int | None = None
    booted_cold: bool = False
    log: list[Step] = field(default_factory=list)

    def do(self, step: Step) -> None:
        self.log.append(step)
        getattr(self, step.name.lower())()
        self.hold()

    def hold(self) -> None:
        if self.guest == "running" and self.ready is not None:
            raise Broken(f"a guest runs beside a ready image: {self.log}")
        if self.ready is not None and self.ready != self.disk:
            raise Broken(f"a ready image is older than its disk: {self.log}")

    # a save
    def freeze(self) -> None:
        self._needs_guest()
        self.frozen = True

    def sync(self) -> None:
        self._needs_guest()

    def pause(self) -> None:
        self._needs_guest()
        self.guest = "paused"

    def save(self) -> None:
        self.discard()
        self._needs_guest()
        self.partial = self.disk

    def verify(self) -> None:
        assert self.partial is not None

    def ready_(self) -> None:
        self.ready, self.partial = self.partial, None

    def end(self) -> None:
        self.guest, self.frozen, self.mended = "none", False, True

    # a restore
    def check(self) -> None:
        assert self.ready == self.disk

    def load(self) -> None:
        assert self.guest == "none" and self.ready is not None
        self.guest, self.frozen, self.mended = "loaded", True, False

    def consume(self) -> None:
        self.used, self.ready = self.ready, None

    def run(self) -> None:
        assert self.guest in ("loaded", "paused"), self.guest
        self.guest = "running"
        self.disk += 1

    def mend(self) -> None:
        self._needs_guest()
        self.mended = True

    def thaw(self) -> None:
        self._needs_guest()
        if not self.mended:
            raise Broken(f"containers go on before the guest is mended: {self.log}")
        self.frozen = False

    # what undoes
    def discard(self) -> None:
        self.partial = self.ready = self.used = None

    def resume(self) -> None:
        if self.guest in ("paused", "running"):
            self.guest = "running"
            self.disk += 1

    def cold(self) -> None:
        assert self.guest == "none", self.guest
        self.discard()
        self.guest, self.frozen, self.mended, self.booted_cold = "running", False, True, True
        self.disk += 1

    def _needs_guest(self) -> None:
        assert self.guest in ("running", "paused"), self.guest


def step_in(world: World, step: Step) -> None:
    if step is Step.READY:
        world.log.append(step)
        world.ready_()
        world.hold()
    else:
        world.do(step)


def asleep() -> World:
    world = World()
    for step in SAVE:
        step_in(world, step)
    return world


def is_well(world: World) -> bool:
    world.hold()
    return world.guest == "running" and not world.frozen and world.mended


def test_a_whole_round_changes_nothing_but_the_disks_generation() -> None:
    world = asleep()
    assert (world.guest, world.ready) == ("none", 1)
    for step in RESTORE:
        world.do(step)
    assert is_well(world) and world.ready is None


@pytest.mark.parametrize(("at", "effect"), list(itertools.product(SAVE, (False, True))))
def test_a_save_that_fails_leaves_the_machine_running(at: Step, effect: bool) -> None:
    """`effect`: the step did its work and still reported a failure."""
    if at is Step.END and effect:
        return  # then it sleeps: the hypervisor is gone, and nothing is to be undone
    world = World()
    for step in SAVE[: SAVE.index(at)]:
        step_in(world, step)
    if effect:
        step_in(world, at)
    for undo in after_failed_save(at):
        step_in(world, undo)
    assert is_well(world)
    assert world.ready is None and world.partial is None


@pytest.mark.parametrize(
    ("at", "effect", "fault"), list(itertools.product(RESTORE, (False, True), (False, True)))
)
def test_a_restore_that_fails_boots_cold_or_sleeps_on(at: Step, effect: bool, fault: bool) -> None:
    world = asleep()
    for step in RESTORE[: RESTORE.index(at)]:
        world.do(step)
    if effect:
        world.do(at)
    todo = after_failed_restore(at, image_at_fault=fault)
    if world.guest != "none":
        world.end()  # nothing runs after a failed restore, whatever comes next
    for step in todo:
        if step is not Step.GIVE_UP:
            world.do(step)
    if Step.COLD in todo:
        assert is_well(world) and world.booted_cold
    else:
        assert world.guest == "none" and world.ready == world.disk, "it sleeps on, its image unused"


def left(world: World) -> Left:
    return Left(
        alive=world.guest != "none",
        paused=world.guest in ("paused", "loaded", "waiting"),
        has_guest=world.guest != "waiting",
        ready=world.ready is not None,
        consumed=world.used is not None,
    )


def recovered(world: World) -> World:
    """What a new agent makes of it, and then `proa start` without any other help."""
    for step in after_crash(left(world)):
        if step is Step.RESUME or step is not Step.END or world.guest != "none":
            step_in(world, step)
    if world.guest == "none":
        world.partial = world.used = None  # swept
        for step in RESTORE if world.ready is not None else (Step.COLD,):
            world.do(step)
    return world


@pytest.mark.parametrize(
    ("order", "dies"), list(itertools.product((SAVE, RESTORE), ("agent", "hypervisor", "both")))
)
def test_a_death_at_every_step_is_mended_by_the_next_agent(order: tuple[Step, ...], dies: str) -> None:
    for count in range(len(order) + 1):
        world = World() if order is SAVE else asleep()
        for step in order[:count]:
            step_in(world, step)
        if dies != "agent":
            world.end()
        assert is_well(recovered(world)), (order[:count], world)


def test_an_agent_that_dies_while_the_image_is_loaded_leaves_the_image() -> None:
    world = asleep()
    world.guest = "waiting"
    assert after_crash(left(world)) == (Step.END,)


def test_containers_that_slept_are_never_lost_to_an_agents_death() -> None:
    """Only the hypervisor's own death after the image was consumed costs what ran."""
    for order in (SAVE, RESTORE):
        for count in range(len(order) + 1):
            world = World() if order is SAVE else asleep()
            for step in order[:count]:
                step_in(world, step)
            assert not recovered(world).booted_cold, order[:count]
