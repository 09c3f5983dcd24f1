"""The share server's process: python -m proa.shares NUMBER, a socket that it is told by and answers on.

One JSON object a line each way. `{"op": "config", "roots": [[PATH, WRITABLE], ...], "never": [PATH, ...],
"owner": "keep" | "user"}` comes first; `{"op": "stream"}` with a descriptor gives it a stream to the guest.
The process ends when the socket does.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import socket
import sys
from typing import Any

assert sys.platform != "win32"  # as proa.system.beneath

from proa.shares.nodes import Root
from proa.shares.operations import Operations
from proa.shares.server import Server
from proa.shares.tree import Allowed, Tree

log = logging.getLogger("proa.shares")
MOST_LINE = 1 << 20


def main(argv: list[str]) -> int:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    os.umask(0)  # the guest's own is in its requests
    folders = _raise_limit() // 2
    server: Server | None = None
    operations: Operations | None = None
    with socket.socket(fileno=int(argv[1])) as control:
        for message, handles in _messages(control):
            if message["op"] == "config":
                allowed = _allowed(message)
                if operations is None:
                    tree = Tree(allowed, keep_owners=message["owner"] == "keep", most_folders=folders)
                    operations = Operations(tree)
                    server = Server(operations)
                else:
                    operations.tree.allow(allowed)
                    operations.tree.owners.keep = message["owner"] == "keep"
                answer: dict[str, Any] = {"done": True}
            elif message["op"] == "stream" and server is not None and handles:
                stream = socket.socket(fileno=handles.pop())
                stream.setblocking(True)
                server.serve(stream)
                answer = {"done": True}
            elif message["op"] == "status" and operations is not None:
                answer = {"nodes": len(operations.tree.nodes), "handles": operations.handles}
            else:
                answer = {"failed": "there is no such order"}
            control.sendall(json.dumps(answer).encode() + b"\n")
    if server is not None:
        server.close()
    return 0


def _allowed(message: dict[str, Any]) -> Allowed:
    roots = tuple(Root(os.fsencode(path), bool(writable)) for path, writable in message["roots"])
    return Allowed(roots, tuple(os.fsencode(path) for path in message["never"]))


def _messages(control: socket.socket) -> Any:
    """Each order with the descriptors that came with it, until the other side ends."""
    buffer = bytearray()
    handles: list[int] = []
    while True:
        data, found, _, _ = socket.recv_fds(control, 65536, 4)
        handles += found
        if not data:
            return
        buffer += data
        if len(buffer) > MOST_LINE:
            raise ValueError("an order without an end")
        while b"\n" in buffer:
            line, _, rest = bytes(buffer).partition(b"\n")
            buffer = bytearray(rest)
            yield json.loads(line), handles
            for handle in handles:
                os.close(handle)
            handles = []


def _raise_limit() -> int:
    """As many open files as the system allows; how many that are."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(most, 65536) if most != resource.RLIM_INFINITY else 65536
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    return wanted


if __name__ == "__main__":
    sys.exit(main(sys.argv))
