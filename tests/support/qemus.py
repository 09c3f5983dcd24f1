"""Real QEMU processes whose guests stay paused: for what needs a hypervisor and no guest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from proa.drivers.base import BootSpec, DriverInfo, MemoryImages
from proa.drivers.qemu.driver import QemuDriver
from proa.drivers.qemu.hypervisor import QemuProcess
from proa.system.locks import FileLock
from proa.system.paths import Places


class World:
    """A driver in a folder of its own; what it boots stays paused, so that it needs no guest."""

    def __init__(self, folder: Path, memory_images: MemoryImages | None = None) -> None:
        self.places = Places.current({"PROA_HOME": str(folder / "h")})
        self.places.make()
        self.driver = QemuDriver(self.places, memory_images)
        self.driver._info = DriverInfo("7.2", "tcg", "")
        self.folder = folder
        self.runtime = folder / "r,u n"
        self.runtime.mkdir(mode=0o700, exist_ok=True)
        self.booted: list[QemuProcess] = []

    async def boot(self, **changes: object) -> QemuProcess:
        with await self.spec(**changes) as spec:
            hypervisor = await self.driver.boot(spec, lambda text: None)
        self.booted.append(hypervisor)
        return hypervisor

    async def restore(self, image: Path, **changes: object) -> QemuProcess:
        with await self.spec(**changes) as spec:
            hypervisor = await self.driver.restore(spec, image, lambda text: None)
        self.booted.append(hypervisor)
        return hypervisor

    async def spec(self, **changes: object) -> AbstractContextManager[BootSpec]:
        """What to boot, with the machine's lock for as long as the context lasts."""
        for name in ("kernel", "initrd", "root"):
            (self.folder / name).write_bytes(bytes(4096))
        (self.folder / "config").write_text("{}")
        if not (self.folder / "data").exists():
            await self.driver.make_disk(self.folder / "data", 1 << 30)
        lock = FileLock.try_acquire(self.folder / "lock")
        assert lock is not None
        values: dict[str, object] = {
            "name": "m", "cpus": 1, "memory": 128 << 20,
            "kernel": _boot_sector(self.folder), "initrd": self.folder / "initrd",
            "root": self.folder / "root", "data_disk": self.folder / "data", "command_line": "",
            "guest_config": self.folder / "config", "runtime": self.runtime,
            "console_log": self.folder / "console.log",
            "lock_fd": lock.fd, **changes,
        }  # fmt: skip
        return _locked(BootSpec(**values), lock)  # type: ignore[arg-type]

    async def close(self) -> None:
        for hypervisor in self.booted:
            await hypervisor.quit()
            await hypervisor.detach()


@contextmanager
def _locked(spec: BootSpec, lock: FileLock) -> Iterator[BootSpec]:
    try:
        yield spec
    finally:
        lock.release()


def _boot_sector(folder: Path) -> Path:
    """A bzImage header that QEMU loads and nothing ever runs (it stays paused)."""
    image = bytearray(8192)
    image[0x1F1] = 4  # setup_sects
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    image[0x206:0x208] = b"\x0d\x02"
    image[0x211] = 1  # loadflags: loaded high
    image[0x22C:0x230] = b"\xff\xff\xff\x37"  # initrd_addr_max
    (folder / "kernel").write_bytes(image)
    return folder / "kernel"
