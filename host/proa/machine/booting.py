"""From a config to a hypervisor that holds the guest: booted anew, or restored from its memory image."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from proa.drivers.base import BootSpec, Driver
from proa.images.store import Image, ImageStore
from proa.machine import adoption, authorities, guest_config, last_logs
from proa.machine.host_checks import check_room, check_sizes
from proa.machine.session import Session
from proa.machine.sleep.fingerprint import CERTIFICATES, fingerprint
from proa.machine.sleep.sleeper import Sleeper, next_key
from proa.machine.store import MachineStore
from proa.model.errors import ProaError
from proa.model.machine import MachineConfig
from proa.system.files import make_private_folder, write_atomic
from proa.system.paths import MachinePaths, Places

log = logging.getLogger("proa.machine")

Say = Callable[[str, str, float | None], None]  # step, message, fraction of it (0..1) where known


@dataclass(frozen=True)
class _Ground:
    """What a start stands on; `mark` says what a memory image of it depends on."""

    spec: BootSpec
    certificates: str
    mark: dict[str, str]


class Booter:
    """Makes the hypervisors of one machine. Nothing is left running where it fails."""

    def __init__(
        self,
        paths: MachinePaths,
        *,
        places: Places,
        store: MachineStore,
        images: ImageStore,
        driver: Driver,
        sleeper: Sleeper,
    ) -> None:
        self._paths = paths
        self._places = places
        self._store = store
        self._images = images
        self._driver = driver
        self._sleeper = sleeper

    async def boot(self, config: MachineConfig, say: Say) -> Session:
        """A guest that stands still before its first instruction. Raises ProaError."""
        async with self._ground(config, self._image(config), say) as ground:
            # An image is older than the disk from now on.
            await asyncio.to_thread(self._sleeper.images.drop)
            if self._paths.data_disk.exists():
                await self._driver.grow_disk(self._paths.data_disk, config.disk)
            else:
                await self._driver.make_disk(self._paths.data_disk, config.disk)
            secret = guest_config.new_secret()
            write_atomic(self._paths.link_key, secret)
            next_key(self._paths).unlink(missing_ok=True)
            given = guest_config.render(config, secret, ground.certificates)
            write_atomic(self._paths.guest_config, given)
            say("hypervisor", "booting", None)
            hypervisor = await self._driver.boot(ground.spec, lambda text: say("hypervisor", text, None))
        session = Session(self._paths.name, hypervisor, secret)
        session.fingerprint = ground.mark
        return session

    async def restore(self, config: MachineConfig, say: Say, *, awaited: bool) -> Session:
        """The guest of the memory image, running. Raises MustBootCold where that is of no use and gone.

        `awaited`: by a request.
        Raises ProaError where the image is kept and the machine sleeps on.
        """
        say("memory", "restoring its memory", None)
        header = self._sleeper.asleep()
        sleeps = header is not None and header.kind == "suspended"
        image = self._image_of_the_sleeper(config) if sleeps else self._image(config)
        async with self._ground(config, image, say) as ground:
            if header is not None and sleeps:
                # Authorities of this computer may have changed: it trusts the old ones until it is booted.
                ground.mark[CERTIFICATES] = header.fingerprint.get(CERTIFICATES, "")
            session = await self._sleeper.restore(ground.spec, ground.mark, awaited=awaited)
        session.fingerprint = ground.mark
        return session

    def _image(self, config: MachineConfig) -> Image:
        return self._images.get(config.image) if config.image else self._images.newest()

    def _image_of_the_sleeper(self, config: MachineConfig) -> Image:
        """A newer guest image is no reason to lose what sleeps."""
        booted = self._store.booted_image(self._paths.name)
        return self._images.get(booted) if booted in self._images.names() else self._image(config)

    @contextlib.asynccontextmanager
    async def _ground(self, config: MachineConfig, image: Image, say: Say) -> AsyncIterator[_Ground]:
        """Sizes, room, a checked guest image, a proved accelerator, and the lock while it is needed."""
        check_sizes(config)
        certificates = authorities.collect(config)
        check_room(self._places)
        await asyncio.to_thread(self._images.verify, image)
        self._store.keep_booted_image(config.name, image.id)
        say("image", f"guest image {image.id}", None)
        info = await self._driver.probe(
            image.kernel, image.initrd, lambda text: say("hypervisor", text, None)
        )
        log.info("%s: hypervisor %s with %s: %s", config.name, info.version, info.accelerator, info.reason)
        make_private_folder(self._paths.runtime)
        last_logs.forget(self._paths)
        lock = await adoption.take_lock(self._driver, self._paths)
        if lock is None:
            raise ProaError(
                "machine-locked",
                f"the machine {config.name!r} is in use",
                why="another process holds its lock, and it is not a hypervisor that this agent knows",
                hint=f"see who: fuser {self._paths.lock}",
                layer="hypervisor",
            )
        try:
            spec = _spec(config, image, self._paths, lock.fd)
            yield _Ground(spec, certificates, fingerprint(config, image.id, spec, self._driver, certificates))
        finally:
            lock.release()


def _spec(config: MachineConfig, image: Image, paths: MachinePaths, lock_fd: int) -> BootSpec:
    return BootSpec(
        name=config.name,
        cpus=config.cpus,
        memory=config.memory,
        kernel=image.kernel,
        initrd=image.initrd,
        root=image.root,
        data_disk=paths.data_disk,
        command_line=image.manifest.commandline,
        guest_config=paths.guest_config,
        runtime=paths.runtime,
        console_log=paths.console_log,
        lock_fd=lock_fd,
    )
