"""Listening sockets that a service manager made for us and hands over (systemd's protocol, sd_listen_fds(3)).

They stay the manager's: we answer on them, and neither remove nor replace what is at their paths. So a
connection that comes while no agent is there waits in the socket, and starts one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from proa.system.sockets import listen_private

log = logging.getLogger("proa.system")

FIRST = 3  # SD_LISTEN_FDS_START: the first descriptor after the standard ones
MOST = 512  # descriptors; nobody hands over more, and a wrong number must not keep us busy
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def parse(environ: Mapping[str, str], pid: int) -> tuple[tuple[int, str], ...]:
    """Descriptors and names that were handed to the process `pid`; none where they are another's.

    A process that inherited the variables from one that was activated is not meant: that is what
    LISTEN_PID tells. What cannot be read counts as nothing.
    """
    owner, count = environ.get("LISTEN_PID", ""), environ.get("LISTEN_FDS", "")
    if not (_is_number(owner) and _is_number(count)) or int(owner) != pid or int(count) > MOST:
        return ()
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    return tuple(
        (FIRST + index, names[index] if index < len(names) and names[index] else "unknown")
        for index in range(int(count))
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 11


@dataclass(frozen=True)
class _Handed:
    name: str
    listener: socket.socket
    identity: tuple[int, int] | None  # device and inode of what is at its path


class Listeners:
    """Where the agent gets its listening sockets: what was handed over, else sockets of its own."""

    def __init__(self, handed: Iterable[tuple[str, socket.socket]] = ()) -> None:
        self._handed: dict[Path, _Handed] = {}
        self._own: dict[Path, tuple[int, int] | None] = {}
        for name, listener in handed:
            path = Path(os.fsdecode(listener.getsockname()))
            self._handed[path] = _Handed(name, listener, _identity(path))

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Listeners:
        """Take over what `environ` says was handed to this process; children are not to see it."""
        found = parse(environ, os.getpid())
        for variable in _VARIABLES:
            environ.pop(variable, None)
        return cls([(name, taken) for fd, name in found if (taken := _take(fd, name)) is not None])

    def __bool__(self) -> bool:
        """True where a service manager started us for its sockets."""
        return bool(self._handed)

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self._handed)

    def is_handed(self, path: Path) -> bool:
        """Whether the socket at `path` is one that was handed over: then it is not ours to remove."""
        handed = self._handed.get(path)
        return handed is not None and handed.identity is not None and handed.identity == _identity(path)

    def at(self, path: Path) -> socket.socket:
        """A listening socket at `path`, to be closed by who asks. Raises as `listen_private` does."""
        if self.is_handed(path):
            # A copy: when the one who serves it now is done, another may go on.
            return self._handed[path].listener.dup()
        listener = listen_private(path)
        self._own[path] = _identity(path)
        return listener

    def remove(self, path: Path) -> None:
        """Take away a socket of our own; what was handed over, or is another's by now, stays."""
        ours = self._own.pop(path, None)
        if ours is not None and ours == _identity(path):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        for handed in self._handed.values():
            handed.listener.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _take(fd: int, name: str) -> socket.socket | None:
    """The listening Unix stream socket `fd`, private to this process; None where it is something else."""
    if sys.platform == "win32":
        return None
    try:
        os.set_inheritable(fd, False)
        listener = socket.socket(fileno=fd)
    except OSError as error:
        log.warning("the descriptor %d (%s) that was handed over is no socket: %s", fd, name, error)
        return None
    with contextlib.suppress(OSError):
        kind = (listener.family, listener.type)
        listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if kind == (socket.AF_UNIX, socket.SOCK_STREAM) and listening and listener.getsockname():
            listener.setblocking(False)
            return listener
    log.warning("the descriptor %d (%s) that was handed over is no listening Unix socket", fd, name)
    listener.close()
    return None
