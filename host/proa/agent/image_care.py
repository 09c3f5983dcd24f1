"""What the agent does with guest images, and which machines stand on them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from proa.agent.answers import Say
from proa.images import builder
from proa.images import manifest as manifests
from proa.images.fetch import Fetch
from proa.images.store import Image, ImageStore
from proa.machine.store import MachineStore
from proa.model.errors import ProaError
from proa.model.image import ImageInfo
from proa.model.problem import Problem
from proa.system.paths import Places


class ImageCare:
    """All guest images of one installation."""

    def __init__(self, images: ImageStore, machines: MachineStore, places: Places) -> None:
        self._images = images
        self._machines = machines
        self._places = places

    # -- looking -------------------------------------------------------------------------------

    async def listed(self) -> list[ImageInfo]:
        """All images, the newest first. What cannot be used is listed with its problem."""
        return await asyncio.to_thread(lambda: [self.info(name) for name in self._images.names()])

    def info(self, identity: str) -> ImageInfo:
        """Never raises for an image that is there."""
        newest = self._images.names()[:1] == (identity,)
        users = tuple(self.users(identity))
        try:
            image = self._images.get(identity)
        except ProaError as error:
            folder = str(self._images.folder(identity))
            return ImageInfo(
                id=identity, newest=newest, used_by=users, folder=folder, problem=Problem.of(error)
            )
        manifest = image.manifest
        return ImageInfo(
            id=manifest.id,
            version=manifest.version,
            architecture=manifest.architecture,
            suite=manifest.suite,
            kernel_version=manifest.kernel_version,
            size=manifest.size,
            packages=len(manifest.packages),
            signer=image.signer.name,
            newest=newest,
            used_by=users,
            folder=str(image.folder),
            sources=_file(image, manifests.SOURCES),
            source_offer=_file(image, manifests.SOURCE_OFFER),
        )

    def users(self, identity: str) -> dict[str, str]:
        """Machines that stand on the image, and why it may not go.

        The image that a machine was booted with counts until it is booted with another: it may be running
        or asleep.
        """
        newest = self._images.names()[:1]
        found = {}
        for name in self._machines.names():
            try:
                wanted = self._machines.load(name).image or (newest[0] if newest else "")
            except ProaError:
                wanted = newest[0] if newest else ""  # its config cannot be read: better one too many
            if wanted == identity:
                found[name] = f"the machine {name!r} starts from it"
            elif self._machines.booted_image(name) == identity:
                found[name] = f"the machine {name!r} was started from it last"
        return found

    # -- taking in -----------------------------------------------------------------------------

    async def build(self, archive: str, say: Say) -> ImageInfo:
        folder = await builder.build(builder.find_builder(), lambda text: say("image", text, None))
        image = await asyncio.to_thread(
            self._images.import_image, folder, _Meter(say, "signing and importing"), built_here=True
        )
        if archive:
            say("image", f"writing {archive}", None)
            await asyncio.to_thread(self._images.pack, image, _absolute(archive))
        return self.info(image.id)

    async def fetch(self, url: str, older: bool, say: Say) -> ImageInfo:
        fetch = Fetch(
            url,
            self._places.downloads,
            lambda data, signed: self._images.admit(data, signed, "what the server sends", older=older),
            lambda text, fraction: say("image", text, fraction),
        )
        path = await fetch.run()
        try:
            image = await asyncio.to_thread(
                self._images.import_image, path, _Meter(say, "checking and importing"), older=older
            )
        finally:
            fetch.part.discard()
        return self.info(image.id)

    async def import_image(self, path: str, older: bool, say: Say) -> ImageInfo:
        image = await asyncio.to_thread(
            self._images.import_image, _absolute(path), _Meter(say, "checking and importing"), older=older
        )
        return self.info(image.id)

    # -- checking and removing -------------------------------------------------------------------

    async def verify(self, identity: str, say: Say) -> ImageInfo:
        """Check signature and every byte; an empty `identity` is the newest. Raises ProaError."""
        meter = _Meter(say, "hashing every file")

        def check() -> Image:
            image = self._images.get(identity) if identity else self._images.newest()
            self._images.verify(image, every=True, progress=meter)
            return image

        return self.info((await asyncio.to_thread(check)).id)

    async def remove(self, identity: str) -> ImageInfo:
        """Raises ProaError `image-in-use` naming the machines, `image-missing`."""
        if identity in self._images.names() and (users := self.users(identity)):
            raise ProaError(
                "image-in-use",
                f"the guest image {identity} is not removed",
                why="; ".join(users.values()),
                hint=f"free it: proa restart {next(iter(users))} with another image, or proa delete it",
            )
        info = self.info(identity)
        await asyncio.to_thread(self._images.remove, identity)
        return info

    async def prune(self, say: Say) -> list[ImageInfo]:
        """Remove every image that no machine stands on but the newest; those that went."""
        removed = []
        for identity in self._images.names()[1:]:
            if not self.users(identity):
                say("image", f"removing {identity}", None)
                removed.append(await self.remove(identity))
        return removed


def _file(image: Image, name: str) -> str:
    return str(image.folder / name) if name in image.manifest.files else ""


def _absolute(path: str) -> Path:
    found = Path(path)
    if not found.is_absolute():
        raise ProaError(
            "bad-path", f"{path!r} is no absolute path", why="the agent has no current folder", usage=True
        )
    return found


class _Meter:
    """Passes a fraction on whenever it grew by a hundredth. Made on the loop, called from a worker thread."""

    def __init__(self, say: Say, text: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._say = say
        self._text = text
        self._told = -1.0

    def __call__(self, fraction: float) -> None:
        if fraction - self._told >= 0.01 or fraction >= 1:
            self._told = fraction
            self._loop.call_soon_threadsafe(self._say, "image", self._text, fraction)
