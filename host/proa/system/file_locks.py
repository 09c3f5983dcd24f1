"""Locks that belong to an open file, not to a process: fcntl(2), "open file description locks", and flock(2).

Other programs' locks of both kinds are seen, and they see these. They end when the last descriptor of the
open file is closed, whoever holds it. Windows has others, which keep whoever does not ask from reading too.
"""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass

from proa.system.beneath import Descriptor

if sys.platform != "win32":
    import fcntl

READ, WRITE, NONE = 0, 1, 2  # Linux' F_RDLCK, F_WRLCK and F_UNLCK, which are FUSE's numbers too
TO_THE_END = (1 << 63) - 1  # the last byte of a range that goes on for as long as the file may grow
_FLOCK = struct.Struct(
    "hhqqi4x"
)  # fcntl(2), struct flock of 64-bit Linux: kind, whence, start, length, process
_BUSY = (errno.EAGAIN, errno.EACCES)
ARE_KNOWN = sys.platform != "win32"  # one of the two kinds at least


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes from `start` to `end`, with it; `pid` is of who locked them, 0 for one that is not to be told."""

    start: int
    end: int
    kind: int
    pid: int = 0


def lock(file: Descriptor, wanted: Range) -> bool:
    """Lock or unlock a range; False where somebody else holds a part of it. Raises OSError."""
    if sys.platform == "linux":
        return _is_had(lambda: fcntl.fcntl(file.number, fcntl.F_OFD_SETLK, _packed(wanted)))
    raise OSError(errno.ENOSYS, "no locks of open files are known here")


def in_the_way(file: Descriptor, wanted: Range) -> Range | None:
    """A range that somebody else holds, where `lock` would give False. Raises OSError."""
    if sys.platform == "linux":
        answer = fcntl.fcntl(file.number, fcntl.F_OFD_GETLK, _packed(wanted))
        kind, _, start, length, pid = _FLOCK.unpack(answer)
        if kind == fcntl.F_UNLCK:
            return None
        return Range(start, start + length - 1 if length else TO_THE_END, kind, max(pid, 0))
    raise OSError(errno.ENOSYS, "no locks of open files are known here")


def flock(file: Descriptor, kind: int) -> bool:
    """Lock or unlock all of it, as flock(2); False where somebody else holds it. Raises OSError."""
    if sys.platform != "win32":
        how = {READ: fcntl.LOCK_SH, WRITE: fcntl.LOCK_EX, NONE: fcntl.LOCK_UN}[kind]
        return _is_had(lambda: fcntl.flock(file.number, how | fcntl.LOCK_NB))
    raise OSError(errno.ENOSYS, "no locks of open files are known here")


def _is_had(lock: Callable[[], object]) -> bool:
    """Take a lock; False where somebody else holds it. Raises OSError."""
    try:
        lock()
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise
    return True


def _packed(wanted: Range) -> bytes:
    length = 0 if wanted.end >= TO_THE_END else wanted.end - wanted.start + 1
    return _FLOCK.pack(wanted.kind, 0, wanted.start, length, 0)


def changed(held: tuple[Range, ...], new: Range) -> tuple[Range, ...]:
    """What an owner holds after it has locked or unlocked `new`: apart from each other, in order."""
    found = []
    for part in held:
        if part.end < new.start or part.start > new.end:
            found.append(part)
            continue
        if part.start < new.start:
            found.append(Range(part.start, new.start - 1, part.kind, part.pid))
        if part.end > new.end:
            found.append(Range(new.end + 1, part.end, part.kind, part.pid))
    if new.kind != NONE:
        found.append(new)
    joined: list[Range] = []
    for part in sorted(found, key=lambda part: part.start):
        last = joined[-1] if joined else None
        if last is not None and (last.end + 1, last.kind, last.pid) == (part.start, part.kind, part.pid):
            joined[-1] = Range(last.start, part.end, last.kind, last.pid)
        else:
            joined.append(part)
    return tuple(joined)
