"""The guest's console: from QEMU's socket into a log that is rotated, for a person to read later."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from proa.model.errors import ProaError
from proa.system.files import explain

log = logging.getLogger("proa.qemu")

LOG_SIZE = 1 << 20  # bytes; the log before is kept as NAME.1
CONNECT_TIMEOUT = 10.0


class ConsoleLog:
    """A file that never has more than LOG_SIZE bytes, and one older one."""

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self._path = path
        self._size = 0
        if fresh:
            self._rotate()
        elif path.exists():
            self._size = path.stat().st_size

    def _rotate(self) -> None:
        if self._path.exists():
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append; the guest decides how much, we decide how much is kept."""
        if self._size + len(data) > LOG_SIZE:
            self._rotate()
        with open(self._path, "ab", opener=_private) as file:
            file.write(data[:LOG_SIZE])
        self._size += len(data)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


class ConsoleReader(asyncio.Protocol):
    """Copies a console's socket to its log until it ends."""

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self._log = ConsoleLog(path, fresh=fresh)
        self._transport: asyncio.BaseTransport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, socket: Path, path: Path, *, fresh: bool) -> ConsoleReader:
        """Raises ProaError `hypervisor-silent` or what the disk says."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, reader = await asyncio.get_running_loop().create_unix_connection(
                    lambda: cls(path, fresh=fresh), str(socket)
                )
        except (OSError, TimeoutError) as error:
            raise ProaError(
                "hypervisor-silent", "the guest's console cannot be read", why=str(error), layer="hypervisor"
            ) from error
        return reader

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._log.write(data)
        except OSError as error:
            # A console that cannot be kept is no reason to stop the machine: it is read and dropped.
            log.warning("%s", explain(error, "keep the console's log"))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
