"""Images through the agent's API, by its own client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from proa.agent.agent import Agent
from proa.agent.client import AgentClient
from proa.images.store import Image
from proa.model.api import Progress
from proa.model.errors import ProaError
from proa.model.image import FetchRequest, ImportRequest
from proa.model.machine import MachineOptions
from proa.system.paths import Places
from tests.support.images import make_image
from tests.support.mirror import good, mirror

T = TypeVar("T")


class World:
    def __init__(self, agent: Agent, folder: Path) -> None:
        self.agent = agent
        self.folder = folder
        self.client = AgentClient(agent.places)
        self.said: list[Progress] = []

    async def ask(self, question: Callable[[AgentClient], T]) -> T:
        async with asyncio.timeout(60):
            return await asyncio.to_thread(question, self.client)

    async def refused(self, question: Callable[[AgentClient], object]) -> ProaError:
        with pytest.raises(ProaError) as caught:
            await self.ask(question)
        return caught.value

    def built(self, identity: str, version: str = "1.5") -> Image:
        source = make_image(self.folder / identity, identity, version)
        return self.agent.images.import_image(source, lambda _: None, built_here=True)

    async def machine(self, name: str, image: str | None = None) -> None:
        options = MachineOptions(memory=512 << 20, image=image)
        await self.ask(lambda client: client.create(name, options, self.said.append))


@pytest.fixture
async def world(short: Path, tmp_path: Path) -> AsyncIterator[World]:
    places = Places.current({"PROA_HOME": str(short)})
    places.make()
    agent = Agent(places)
    await agent.open()
    try:
        yield World(agent, tmp_path)
    finally:
        await agent.close()


async def test_images_are_listed_with_all_that_is_to_know(world: World) -> None:
    assert await world.ask(lambda client: client.images()) == []
    world.built("first1")
    image = world.built("second2", "1.6")
    await world.machine("work", "first1")
    newest, first = await world.ask(lambda client: client.images())
    assert (newest.id, newest.version, newest.signer, newest.newest) == ("second2", "1.6", "local", True)
    assert newest.source_offer == str(image.folder / "source-offer.txt") and Path(newest.sources).exists()
    assert (first.used_by, newest.used_by, first.newest) == (("work",), (), False)


async def test_an_image_that_is_spoiled_is_listed_with_its_problem(world: World) -> None:
    image = world.built("first1")
    (image.folder / "manifest.sig").unlink()
    (found,) = await world.ask(lambda client: client.images())
    assert found.problem is not None and found.problem.code == "image-unsigned"
    await world.ask(lambda client: client.remove_image("first1", world.said.append))
    assert await world.ask(lambda client: client.images()) == []


async def test_verify_hashes_what_nobody_looked_at(world: World) -> None:
    image = world.built("first1")
    assert (await world.ask(lambda client: client.verify_image("", world.said.append))).id == "first1"
    assert world.said[-1].fraction == 1.0
    (image.folder / "cli/docker").write_bytes(b"evil")
    error = await world.refused(lambda client: client.verify_image("first1", world.said.append))
    assert error.code == "image-altered" and "cli/docker" in error.message


async def test_what_a_machine_stands_on_is_not_removed(world: World) -> None:
    for number in range(1, 5):
        world.built(f"image{number}")
    await world.machine("pinned", "image1")
    await world.machine("newest")
    await world.machine("running", "image4")
    world.agent.store.keep_booted_image("running", "image2")
    for identity, name in (("image1", "pinned"), ("image2", "running"), ("image4", "newest")):
        error = await world.refused(lambda client, image=identity: client.remove_image(image, print))  # type: ignore[misc]
        assert error.code == "image-in-use" and name in error.why
    gone = await world.ask(lambda client: client.prune_images(world.said.append))
    assert [image.id for image in gone] == ["image3"]
    error = await world.refused(lambda client: client.remove_image("image3", print))
    assert error.code == "image-missing"


async def test_fetch_and_import(world: World, tmp_path: Path) -> None:
    image = world.built("first1")
    archive = tmp_path / "image.tar"
    world.agent.images.pack(image, archive)
    world.agent.images.remove("first1")
    async with mirror(good(archive.read_bytes())) as server:
        request = FetchRequest(url=server.url())
        found = await world.ask(lambda client: client.fetch_image(request, world.said.append))
    assert found.id == "first1" and world.said[-1].message == "checking and importing"
    world.agent.images.remove("first1")
    wanted = ImportRequest(path=str(archive))
    assert (await world.ask(lambda client: client.import_image(wanted, print))).id == "first1"
    error = await world.refused(lambda client: client.import_image(ImportRequest(path="image.tar"), print))
    assert error.code == "bad-path" and error.usage
    unsigned = ImportRequest(path=str(tmp_path / "first1"))
    assert (await world.refused(lambda client: client.import_image(unsigned, print))).code == "image-unsigned"
