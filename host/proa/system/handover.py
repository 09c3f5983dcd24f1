"""A process of ours that is told what to do over a socket, and is given other sockets over it.

On POSIX systems it inherits its end, and sockets and open files go along as unix(7) has it. On Windows its
end, and what it is given, come as what WSADuplicateSocket makes for this one process: nobody else can be in
its place. Open files cannot be given there.
"""

from __future__ import annotations

import base64
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from proa.system.processes import ProcessIdentity, readable, spawn_detached

GIVES_FILES = sys.platform != "win32"
MOST_FILES = 250  # descriptors that are passed at once; unix(7) takes no more than 253
_SOCKET = "socket"  # where a message has one, on Windows


def start(argv: Sequence[str], *, log: Path) -> tuple[socket.socket, ProcessIdentity]:
    """Start it, with a word for `inherited`; our end, which does not block. Raises ProaError, OSError."""
    ours, theirs = socket.socketpair()
    try:
        ours.setblocking(False)
        if sys.platform == "win32":
            identity = spawn_detached(
                [*argv, "-"], log=log, told=lambda pid: base64.b64encode(theirs.share(pid)) + b"\n"
            )
        else:
            fd = theirs.fileno()
            identity = spawn_detached([*argv, str(fd)], log=log, pass_fds=(fd,))
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours, identity


def inherited(word: str) -> socket.socket:
    """The end of the process that was started so."""
    if sys.platform == "win32":
        return socket.fromshare(base64.b64decode(sys.stdin.buffer.readline()))
    return socket.socket(fileno=int(word))


def offer(given: socket.socket, pid: int) -> tuple[dict[str, str], list[int]]:
    """What gives that process a socket: to be added to a message, and descriptors to be sent with it."""
    if sys.platform == "win32":
        return {_SOCKET: base64.b64encode(given.share(pid)).decode("ascii")}, []
    return {}, [given.fileno()]


def taken(message: dict[str, object], files: list[int]) -> socket.socket | None:
    """The socket that came with a message, if one did; its descriptor is taken out of `files`."""
    if sys.platform == "win32":
        text = message.get(_SOCKET)
        return socket.fromshare(base64.b64decode(text)) if isinstance(text, str) else None
    return socket.socket(fileno=files.pop()) if files else None


def send(control: socket.socket, data: bytes, files: Sequence[int]) -> int:
    """The bytes that were sent; `files` go with the first of these. Raises OSError."""
    if sys.platform == "win32":
        return control.send(data)
    return socket.send_fds(control, [data], files)


def receive(control: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """What has come, and the descriptors with it, which are the caller's. Raises OSError."""
    if sys.platform == "win32":
        return control.recv(size), []
    data, files, _, _ = socket.recv_fds(control, size, MOST_FILES)
    return data, files


async def next_received(control: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """The same of a socket that does not block. Raises OSError."""
    if sys.platform == "win32":
        import asyncio

        return await asyncio.get_running_loop().sock_recv(control, size), []
    while True:
        try:
            return receive(control, size)
        except BlockingIOError:
            await readable(control.fileno())
