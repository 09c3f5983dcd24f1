"""The file that outlives the server: what the guest counts on, written down before the guest is told of it.

A server that is killed leaves it as it is, up to its last answer: the system writes what it was given. It is
begun anew when it has become long, with how things are by then.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from proa.model.errors import ProaError
from proa.shares.records import Record
from proa.system.files import write_atomic

log = logging.getLogger("proa.shares")

LONG = 4 << 20  # bytes, beyond four times of what it was begun with


class Journal:
    """Safe for several threads."""

    def __init__(self) -> None:
        self._waiting: deque[Record] = deque()
        self._encoder = msgspec.json.Encoder()
        self._lock = threading.Lock()
        self._path = Path()
        self._present: Callable[[], Iterable[Record]] = tuple
        self._file = -1  # none: nothing is written down
        self._size = self._most = 0

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
            with contextlib.suppress(IndexError):
                while True:
                    records.append(self._waiting.popleft())
            if records and self._file >= 0:
                self._append(self._encoder.encode_lines(records))

    def _append(self, lines: bytes) -> None:
        try:
            written = os.write(self._file, lines)
            if written < len(lines):
                os.write(self._file, lines[written:])  # tells why
        except OSError as error:
            self._give_up(str(error))
            return
        self._size += len(lines)
        if self._size > self._most:
            self._begin()

    def _begin(self) -> None:
        # First what is not needed any more, then how it is: what is noted meanwhile may be in both.
        self._waiting.clear()
        lines = self._encoder.encode_lines(self._present())
        self._close()
        try:
            write_atomic(self._path, lines)
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        except (OSError, ProaError) as error:
            self._give_up(str(error))
            return
        self._size = len(lines)
        self._most = 4 * len(lines) + LONG

    def _give_up(self, why: str) -> None:
        """What is there is not true any more, so it must not be used."""
        log.warning("what the guest knows cannot be written down, a killed server would lose it: %s", why)
        self._close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def end(self, last: Iterable[Record]) -> None:
        """Leave `last` and nothing else to the next server."""
        with self._lock:
            self._close()
            if self._path.name:
                write_atomic(self._path, self._encoder.encode_lines(last))
