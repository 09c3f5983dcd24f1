"""Listening Unix sockets that are private to the user, and what the standard library has no call for."""

from __future__ import annotations

import errno
import select
import socket
import stat
import sys
from pathlib import Path

from proa.model.errors import ProaError
from proa.system.files import explain, make_private_folder

BACKLOG = 512


def listen_private(path: Path) -> socket.socket:
    """A listening socket at `path` (0600, its folder 0700); a stale one there is replaced.

    Only call it while holding the lock that makes us the one owner of `path`.
    Raises ProaError `socket-path-taken` where something other than a socket is in the way.
    """
    if sys.platform == "win32":
        raise ProaError(
            "not-on-windows", "Unix sockets are not used on Windows", why="the engine uses a named pipe"
        )
    make_private_folder(path.parent)
    try:
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
        else:
            raise ProaError(
                "socket-path-taken",
                f"a socket cannot be made at {path}",
                why="a file that is not a socket is in the way",
                hint=f"move it away: mv {path} {path}.old",
            )
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        # The folder is 0700 already; the mode says so to those who look at the socket alone.
        path.chmod(0o600)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise explain(error, f"listen at {path}") from error
    return listener


def answers(path: Path, timeout: float = 1.0) -> bool:
    """True if a process accepts connections at `path`."""
    if sys.platform == "win32":
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(timeout)
        try:
            return probe.connect_ex(str(path)) in (0, errno.EISCONN)
        except OSError:
            return False


def send_both(stream: socket.socket, head: bytes, body: bytes | memoryview) -> None:
    """Send all of both, without making one of them. Raises OSError."""
    if sys.platform == "win32":
        stream.sendall(head)
        stream.sendall(body)
        return
    sent = stream.sendmsg([head, body])
    for part in (head, body):
        stream.sendall(memoryview(part)[min(sent, len(part)) :])
        sent = max(0, sent - len(part))


def receive_now(stream: socket.socket, room: memoryview) -> int | None:
    """How many bytes that are there already were put into `room`, 0 at the end; None where none are.

    Raises OSError.
    """
    if sys.platform == "win32":
        return stream.recv_into(room) if select.select([stream], [], [], 0)[0] else None
    try:
        return stream.recv_into(room, 0, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
