"""The share server's process: python -m proa.shares WORD, for a socket that it is told by and answers on.

One JSON object a line each way. First comes `{"op": "config", "roots": [[PATH, WRITABLE], ...],
"never": [PATH, ...], "owner": "keep" | "user", "state": PATH, "fresh": BOOL, "left": [NUMBER, ...]}`; with
`fresh` what an earlier server left at `state` is of another guest, and with `left` come the descriptors of
files that it had open. A later one changes what is shared. `{"op": "stream"}` with a socket gives it a
stream to the guest; `{"event": "ended"}` says that this has broken.

How sockets and descriptors come with a line, and which do, is in `proa.system.handover`.

The process ends when the socket does, and leaves its state for the next one; `{"event": "left", "handles":
[NUMBER, ...]}` comes with what it has open without a name. It ends by itself where the next one needs other
rights than it has: to a change of what is shared, `{"ending": true}` is then the answer.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from proa.shares import state
from proa.shares.confined import Confined
from proa.shares.journal import Journal
from proa.shares.nodes import Root
from proa.shares.operations import Operations
from proa.shares.protocol import Op
from proa.shares.server import Server
from proa.shares.tree import Allowed, Tree
from proa.shares.watches import Watches
from proa.system import beneath, file_locks, handover
from proa.system.beneath import Descriptor
from proa.system.files import make_private_folder
from proa.system.locks import FileLock
from proa.system.processes import raise_file_limit
from proa.system.watching import Watcher, open_watcher

log = logging.getLogger("proa.shares")
MOST_LINE = 1 << 20
# Of a collection of garbage: what the guest knows is much, lives long and refers to itself, and to look
# through it again and again took a tenth of the time of a first walk through a tree.
COLLECTED = 100_000, 20, 20
_OPS = frozenset(Op)


class Process:
    """What the orders act on."""

    def __init__(self, control: socket.socket, folders: int, watcher: Watcher | None) -> None:
        self._control = control
        self._sending = threading.Lock()
        self._watches = Watches(watcher)
        self._confined = Confined(self._give_way)
        self._journal = Journal()
        self._tree = Tree(
            Allowed(),
            most_folders=folders,
            watches=self._watches,
            reach=self._confined,
            note=self._journal.note,
        )
        self._operations = Operations(self._tree)
        self._server = Server(self._operations, flush=self._journal.flush)
        self._state: Path | None = None
        self._lock: FileLock | None = None

    def run(self) -> None:
        for message, handles in _messages(self._control):
            self._send(self._carry_out(message, handles))
        self._server.close()
        self._leave()
        if self._state is not None:
            self._journal.end(state.present(self._operations, self._server.answers, ended=True))

    def _give_way(self) -> None:
        """Have `run` end; what it has been told can still be answered."""
        with contextlib.suppress(OSError):  # it ends already
            self._control.shutdown(socket.SHUT_RD)

    def _leave(self) -> None:
        # Locks last: they can be locked again.
        left = [*self._operations.handles.nameless(), *self._operations.locks.descriptors()]
        most = handover.MOST_FILES if handover.GIVES_FILES else 0
        if len(left) > most:
            log.warning("%d files that were removed while open, or locks, are lost", len(left) - most)
            del left[most:]
        if left:
            message = {"event": "left", "handles": [number for number, _ in left]}
            with contextlib.suppress(OSError):  # there may be nobody any more to take it
                data = json.dumps(message).encode() + b"\n"
                handover.send(self._control, data, [file.number for _, file in left])

    def _send(self, message: dict[str, Any]) -> None:
        with self._sending:
            self._control.sendall(json.dumps(message).encode() + b"\n")

    def _carry_out(self, message: dict[str, Any], handles: list[int]) -> dict[str, Any]:
        if message["op"] == "config":
            return self._configure(message, handles)
        if message["op"] == "stream" and (stream := handover.taken(message, handles)) is not None:
            stream.setblocking(True)
            self._server.serve(stream, lambda: self._send({"event": "ended"}))
            return {"done": True}
        if message["op"] == "status":
            return self._status()
        return {"failed": "there is no such order"}

    def _configure(self, message: dict[str, Any], handles: list[int]) -> dict[str, Any]:
        allowed = _allowed(message)
        kept, keep = self._tree.owners.keep, message["owner"] == "keep"
        wants_locks = message["locks"] == "host"
        if wants_locks and not file_locks.ARE_KNOWN:
            log.warning("locks that keep away this computer's programs cannot be had on this system")
        self._operations.locks.with_host = wants_locks and file_locks.ARE_KNOWN
        if self._state is None:
            self._confine(allowed, Path(message["state"]).parent)
            self._allow(allowed)
            self._tree.owners.keep = keep
            left = dict(zip(message.get("left", ()), map(Descriptor, handles), strict=True))
            handles.clear()
            self._begin(Path(message["state"]), left, fresh=bool(message["fresh"]))
        elif not self._confined.allows(allowed.roots):
            self._give_way()
            return {"ending": True}
        else:
            self._allow(allowed)
            self._tree.owners.keep = keep
            self._operations.handles.follow_shares()
            self._operations.coherence.shares_changed()
            if kept != keep:
                self._operations.coherence.owners_changed()
        return {"done": True}

    def _allow(self, allowed: Allowed) -> None:
        if self._watches.watcher is not None:
            try:
                self._watches.watcher.follow([root.path for root in allowed.roots])
            except OSError as error:
                self._watches.problem = str(error.strerror)
                log.warning("changes are not told, so each is asked for: %s", error.strerror)
        self._tree.allow(allowed)

    def _status(self) -> dict[str, Any]:
        outbox, tally = self._operations.outbox, self._server.tally
        now = time.monotonic()
        slowest = tally.slowest(now)
        return {
            "nodes": len(self._tree.nodes),
            "open": len(self._operations.handles.held),
            "known": self._known(),
            "asked": tally.asked,
            "rate": tally.rate(now),
            "slowest": (Op(slowest[0]).name.lower(), slowest[1]) if slowest and slowest[0] in _OPS else None,
            "watches": len(self._watches),
            "told": outbox.told,
            "events": outbox.repeated,
            "quiet": self._operations.coherence.quiet() and outbox.quiet(),
            "confined": self._confined.holds,
            "problem": self._watches.problem,
        }

    def _known(self) -> dict[str, int]:
        """How many files and folders of each share the guest knows."""
        nodes = Counter(node.root.path for node in self._tree.nodes.all() if node.root is not None)
        return {beneath.host_path(path): count for path, count in nodes.items()}

    def _confine(self, allowed: Allowed, state_folder: Path) -> None:
        if threading.active_count() > 1:
            raise RuntimeError("a thread that has begun before keeps its rights")
        self._confined.begin(allowed.roots, make_private_folder(state_folder))

    def _begin(self, path: Path, left: Mapping[int, Descriptor], *, fresh: bool) -> None:
        """Go on where the server before this one ended; it may just be about to."""
        self._lock = FileLock.wait_for(path.with_suffix(".lock"))
        self._state = path
        for torn in path.parent.glob(f".{path.name}.*"):  # of one that was killed while it wrote
            with contextlib.suppress(OSError):  # on a disk that is read-only by now
                torn.unlink()
        if fresh:
            self._keep_owners(path)
        else:
            self._go_on(path, left)
        self._journal.begin(path, lambda: state.present(self._operations, self._server.answers, ended=False))

    def _keep_owners(self, path: Path) -> None:
        try:
            state.load_owners(path, self._operations)
        except FileNotFoundError:
            pass  # the first boot
        except (OSError, state.StateError) as error:
            log.error("owners that files cannot hold themselves are lost: %s", error)

    def _go_on(self, path: Path, left: Mapping[int, Descriptor]) -> None:
        try:
            state.load(path, self._operations, self._server.answers, left)
            return
        except FileNotFoundError:
            log.warning("%s: there is none, files that are open in the guest are lost to it", path)
        except state.StateError as error:
            log.error("what the server before left is not used: %s", error)
        state.begin_anew(self._operations)


def main(argv: list[str], watching: Callable[[], Watcher | None] = open_watcher) -> int:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    os.umask(0)  # the guest's own is in its requests
    gc.set_threshold(*COLLECTED)
    folders = raise_file_limit() // 2
    with handover.inherited(argv[1]) as control:
        Process(control, folders, watching()).run()
    return 0


def _allowed(message: dict[str, Any]) -> Allowed:
    roots = tuple(Root(beneath.shared_path(path), bool(writable)) for path, writable in message["roots"])
    return Allowed(roots, tuple(map(beneath.shared_path, message["never"])))


def _messages(control: socket.socket) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """Each order with the descriptors that came with it, until the other side ends."""
    buffer = bytearray()
    handles: list[int] = []
    while True:
        try:
            data, found = handover.receive(control, 65536)
        except ConnectionError:
            return
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


if __name__ == "__main__":
    sys.exit(main(sys.argv))
