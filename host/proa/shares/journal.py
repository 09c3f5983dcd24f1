"""The file that outlives the server: what the guest counts on, written down before the guest is told of it.

It is written through memory that is shared with the file, for a call of the system at each answer would cost
more than many an answer: what is in there when the server is killed, the system keeps. The first line is the
time when the server was last at work, the last one is followed by zeros. When it is full it is begun anew,
with how things are by then.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import msgspec

from proa.model.errors import ProaError
from proa.shares.records import Record
from proa.system.files import write_atomic

log = logging.getLogger("proa.shares")

_TIME_LENGTH = 20
ROOM = 2 << 20  # bytes, beyond twice of what it is begun with


class Journal:
    """Safe for several threads."""

    def __init__(self) -> None:
        self._waiting: deque[Record] = deque()
        self._encoder = msgspec.json.Encoder()
        self._lock = threading.Lock()
        self._path = Path()
        self._present: Callable[[], Iterable[Record]] = tuple
        self._pages: mmap.mmap | None = None  # None: nothing is written down
        self._end = 0

    def begin(self, path: Path, present: Callable[[], Iterable[Record]]) -> None:
        """Write down how things are, as `present` gives it, and from here on what is noted."""
        self._path, self._present = path, present
        with self._lock:
            self._begin()

    def note(self, record: Record) -> None:
        """To be written down with the next `flush`."""
        self._waiting.append(record)

    def flush(self) -> None:
        """Return when all that was noted before is written down, as far as it can be."""
        with self._lock:
            records = []
            while self._waiting:  # nobody else takes any out
                records.append(self._waiting.popleft())
            if self._pages is not None:
                self._pages[:_TIME_LENGTH] = _now()
                self._append(self._pages, self._encoder.encode_lines(records))

    def _append(self, pages: mmap.mmap, lines: bytes) -> None:
        end = self._end + len(lines)
        if end >= len(pages):
            self._begin()
            return
        pages[self._end : end] = lines
        self._end = end

    def _begin(self) -> None:
        # First what is not needed any more, then how it is: what is noted meanwhile may be in both.
        self._waiting.clear()
        lines = _now() + self._encoder.encode_lines(self._present())
        self._close()
        try:
            write_atomic(self._path, lines)
            with self._path.open("r+b") as file:
                _extend(file, 2 * len(lines) + ROOM)
                self._pages = mmap.mmap(file.fileno(), 0)
        except (OSError, ProaError) as error:
            self._give_up(str(error))
            return
        self._end = len(lines)

    def _give_up(self, why: str) -> None:
        """What is there will not be true any more, so it must not be used."""
        log.warning("what the guest knows cannot be written down, a killed server would lose it: %s", why)
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._pages is not None:
            self._pages.close()
            self._pages = None

    def end(self, last: Iterable[Record]) -> None:
        """Leave `last` and nothing else to the next server. Raises ProaError."""
        with self._lock:
            self._close()
            if self._path.name:
                write_atomic(self._path, _now() + self._encoder.encode_lines(last))


def read(path: Path) -> tuple[int, list[Record]]:
    """When the server was last at work, in nanoseconds of the host's clock, and all whole lines.

    One that was killed may have been at its last line. Raises OSError, ValueError.
    """
    content = path.read_bytes().split(b"\0", 1)[0]
    lines = content[_TIME_LENGTH : content.rfind(b"\n") + 1]
    return int(content[:_TIME_LENGTH]), msgspec.json.Decoder(Record).decode_lines(lines)


def _now() -> bytes:
    return b"%0*d\n" % (_TIME_LENGTH - 1, time.time_ns())


def _extend(file: BinaryIO, size: int) -> None:
    """With room on the disk for all of it: a page without any would end the process. Raises OSError."""
    if sys.platform == "linux":
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.write(bytes(size - file.seek(0, os.SEEK_END)))
