"""The data disk: looked at, made, mended once, grown, mounted. Never formatted unless it is blank."""

from __future__ import annotations

import os

from proa_guest.commands import CommandFailed, run

DEVICE = "/dev/vdb"
MOUNT = "/var/lib/proa-data"
# Folders of the guest that must last: each is a folder of the same name on the data disk.
BOUND = {"docker": "/var/lib/docker", "containerd": "/var/lib/containerd", "proa": "/var/lib/proa"}
LEAST_FREE = 64 << 20  # bytes; with less the engine cannot even write a container's files
HEAD = (
    1 << 20
)  # what is looked at to tell a blank disk: every known file system and table leaves a mark there
CHECK_TIMEOUT = 240.0  # seconds e2fsck may take
# ext4's superblock begins at 1024 (kernel: Documentation/filesystems/ext4/super.rst).
_SUPER = 1024


class DiskProblem(Exception):
    """The disk cannot be used; `state` is `missing` or `damaged`."""

    def __init__(self, state: str, message: str) -> None:
        super().__init__(message)
        self.state = state


def kind(head: bytes) -> str:
    """`blank`, `ext4` or `other`, from the first bytes of a disk. Anything unknown is not ours to format."""
    if head[_SUPER + 56 : _SUPER + 58] == b"\x53\xef":
        return "ext4"
    return "blank" if not head.strip(b"\0") else "other"


def needs_check(head: bytes) -> bool:
    """True where ext4 itself has noted errors (s_state, EXT2_ERROR_FS)."""
    return bool(int.from_bytes(head[_SUPER + 58 : _SUPER + 60], "little") & 2)


def size_in(head: bytes) -> int:
    """Bytes that the ext4 file system covers."""
    blocks = _field(head, 4, 4) | _field(head, 0x150, 4) << 32
    return blocks << (10 + _field(head, 24, 4))


def _field(head: bytes, at: int, size: int) -> int:
    return int.from_bytes(head[_SUPER + at : _SUPER + at + size], "little")


def prepare() -> None:
    """Make the disk usable and mounted. Raises DiskProblem; what is on it is never thrown away."""
    try:
        with open(DEVICE, "rb") as device:  # noqa: PTH123  (pathlib is an import too many here)
            head = device.read(HEAD)
            size = device.seek(0, os.SEEK_END)
    except OSError as error:
        raise DiskProblem("missing", f"the data disk {DEVICE} is not there: {error.strerror}") from error
    found = kind(head)
    if found == "other":
        raise DiskProblem("damaged", "the data disk holds something that is not a Proa file system")
    try:
        if found == "blank":
            # What the host makes reads as zeros: else the kernel fills the tables of inodes with them for
            # minutes after each boot.
            options = "assume_storage_prezeroed=1,nodiscard"
            run(["mkfs.ext4", "-q", "-F", "-m", "1", "-E", options, "-L", "proa-data", DEVICE], timeout=120)
        elif needs_check(head):
            _check()
        os.makedirs(MOUNT, exist_ok=True)  # noqa: PTH103
        _mount()
        # A block group (128 MiB) less is not worth a resize.
        if found == "ext4" and size - size_in(head) >= 128 << 20:
            run(["resize2fs", DEVICE], timeout=120)
        for name, place in BOUND.items():
            os.makedirs(f"{MOUNT}/{name}", mode=0o710, exist_ok=True)  # noqa: PTH103
            os.makedirs(place, mode=0o710, exist_ok=True)  # noqa: PTH103
            run(["mount", "--bind", f"{MOUNT}/{name}", place], timeout=20)
    except CommandFailed as error:
        raise DiskProblem("damaged", f"the data disk cannot be used: {error}") from error
    except OSError as error:
        raise DiskProblem("damaged", f"the data disk cannot be written: {error.strerror}") from error


def _mount() -> None:
    argv = ["mount", "-t", "ext4", "-o", "noatime,discard", DEVICE, MOUNT]
    try:
        run(argv, timeout=60)
    except CommandFailed:
        _check()
        run(argv, timeout=60)


def _check() -> None:
    """One repair of what can be repaired without asking; e2fsck's status 0-2 is mended (e2fsck(8))."""
    run(["e2fsck", "-p", DEVICE], timeout=CHECK_TIMEOUT, good=(0, 1, 2))


def report() -> dict[str, object]:
    """State, size and free bytes of the mounted disk."""
    room = os.statvfs(MOUNT)
    size, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    if free >= LEAST_FREE:
        return {"state": "ready", "message": "", "size": size, "free": free}
    message = f"the machine's disk has {free >> 20} MiB left: remove images or volumes, or let it grow"
    return {"state": "full", "message": message, "size": size, "free": free}


def unmount() -> None:
    """Leave the file system clean; what is still busy is mounted read-only instead."""
    for place in reversed(BOUND.values()):
        run(["umount", "-l", place], timeout=20, good=None)
    os.sync()
    try:
        run(["umount", MOUNT], timeout=30)
    except CommandFailed:
        run(["mount", "-o", "remount,ro", MOUNT], timeout=30, good=None)
