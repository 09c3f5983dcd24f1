"""Who watches the mount: the nodes that somebody has a mark on, as /proc tells of every descriptor.

What inotify(7) and fanotify(7) watch is told from outside only there (proc(5), fdinfo). A mark names its node
as open_by_handle_at(2) takes it, so by the number that the host knows. What is not seen: descriptors that are
only in a message under way, or in a thread's own table.
"""

from __future__ import annotations

import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

INSTANCES = ("anon_inode:inotify", "anon_inode:[fanotify]")  # fs/notify: what the descriptors' links say
NODE_HANDLE = 0x81  # linux/exportfs.h, FILEID_INO64_GEN: how FUSE names a node to open_by_handle_at(2)
NODE = struct.Struct("<2I")  # of the handle: the number's upper and lower half; a generation follows
MOST = 16_384  # nodes; so that an answer is one message of a socket's
ROUNDS = 8  # looks for processes that came while others were looked at


def nodes(device: int, but: Collection[str] = (), proc: str = "/proc") -> set[int] | None:
    """Of the mount with the kernel's number `device` (st_dev). None where it cannot be told: then any may be.

    Every mark that was there before the call, and still is, is found: where a process ended before it was
    looked at, those that came meanwhile are looked at too, for it may have left one of them its descriptors.
    Not looked at are the processes `but`, by their numbers. Raises OSError where one may not be looked at.
    """
    found: set[int] = set()
    wanted = (os.major(device) << 20) | os.minor(device)  # as the kernel itself has it, and tells in fdinfo
    seen = set(but)
    for _ in range(ROUNDS):
        new = {name for name in os.listdir(proc) if name.isdigit()} - seen  # noqa: PTH208
        seen |= new
        ended = False
        for process in new:
            marked = _of_process(f"{proc}/{process}", wanted, found)
            if marked is None or len(found) > MOST:
                return None
            ended |= not marked
        if not ended:
            return found
    return None


def _of_process(folder: str, device: int, found: set[int]) -> bool | None:
    """Whether all it had when it was listed was still there; None where what it watches cannot be told."""
    whole = True
    try:
        handles = os.listdir(f"{folder}/fd")  # noqa: PTH208
    except (FileNotFoundError, ProcessLookupError):
        return False
    for handle in handles:
        try:
            if os.readlink(f"{folder}/fd/{handle}") not in INSTANCES:  # noqa: PTH115
                continue
            with open(f"{folder}/fdinfo/{handle}", encoding="ascii") as file:  # noqa: PTH123
                text = file.read()
        except (FileNotFoundError, ProcessLookupError):
            whole = False  # closed, or the process has ended: a child of its may have it
            continue
        if not marks(text, device, found):
            return None
    return whole


def marks(text: str, device: int, found: set[int]) -> bool:
    """Add the nodes of one instance's marks; False for a mark that may be on anything.

    `text` is what fdinfo has, a line for each mark: `inotify wd:1 ino:2 sdev:31 mask:2 ignored_mask:0
    fhandle-bytes:c fhandle-type:81 f_handle:000000000200000000000000`, numbers in hexadecimal digits.
    """
    for line in text.splitlines():
        kind, *words = line.split()
        if kind not in ("inotify", "fanotify"):
            continue
        said = dict(word.split(":", 1) for word in words if ":" in word)
        if "flags" in said and "event-flags" in said:
            continue  # of the instance itself
        if "mnt_id" in said:
            return False  # of a whole mount, of which it is not said what it is of
        if int(said.get("sdev", "0"), 16) != device:
            continue
        handle = bytes.fromhex(said.get("f_handle", ""))
        if said.get("fhandle-type") != f"{NODE_HANDLE:x}" or len(handle) < NODE.size:
            return False  # of the whole file system, or of a node that is not named
        high, low = NODE.unpack_from(handle)
        found.add(high << 32 | low)
    return True
