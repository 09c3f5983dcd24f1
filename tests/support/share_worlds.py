"""The share server's operations without a kernel: a scripted watcher, and what the guest is told."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from proa.shares import protocol
from proa.shares.nodes import Node, Root
from proa.shares.operations import Operations
from proa.shares.protocol import Notice, Op, Request
from proa.shares.tree import Allowed, Tree
from proa.shares.watches import Watches
from proa.system.watching import Change, TooManyWatchesError


class Scripted:
    """Takes `room` watches and tells of nothing by itself."""

    def __init__(self, room: int = 100, *, elsewhere: bool = False, by_path: bool = False) -> None:
        self.by_path = by_path
        self.any_case = False
        self.room = room
        self.elsewhere = elsewhere
        self.last = 0

    def watch(self, parent: int, name: bytes, *, folder: bool, only_names: bool = False) -> int:
        if not self.room:
            raise TooManyWatchesError(errno.ENOSPC, "the limit is reached")
        self.room -= 1
        self.last += 1
        return self.last

    def unwatch(self, watch: int) -> None:
        self.room += 1

    def follow(self, roots: Sequence[bytes]) -> None:
        pass

    def of_any_case(self, device: int) -> bool:
        return self.any_case

    def tells_all(self, device: int) -> bool:
        return not self.elsewhere

    def read(self, timeout: float, begin: Callable[[], None] = lambda: None) -> list[Change]:
        time.sleep(min(timeout, 0.01))
        return []

    def has_unread(self) -> bool:
        return False

    def close(self) -> None:
        pass


class World:
    def __init__(self, folder: Path, watcher: Scripted) -> None:
        self.folder = folder
        self.watches = Watches(watcher)
        self.watches.heard = True
        allowed = Allowed((Root(os.fsencode(folder)),))
        self.operations = Operations(Tree(allowed, watches=self.watches))
        self.told: list[tuple[int, bytes]] = []
        self.top = self.operations.tree.nodes.top
        for name in os.fsencode(folder).split(b"/")[1:]:
            self.top = self.look_up(self.top, name)

    def look_up(self, parent: Node, name: bytes) -> Node:
        return self.operations.tree.look_up(parent, name)[0]

    def valid(self, parent: Node, name: bytes) -> tuple[int, int]:
        """For how many seconds the guest may trust the name, and the attributes."""
        _, _, name_valid, valid, _, _ = protocol.ENTRY_OUT.unpack_from(
            self.ask(Op.LOOKUP, parent, name + b"\0")
        )
        return name_valid, valid

    def ask(self, op: Op, node: Node, body: bytes) -> bytes:
        """What the guest's kernel would be answered. Raises as `Operations.answer`."""
        found = self.operations.answer(Request(op, 2, node.number, 0, 0, 0, memoryview(body)))
        assert found is not None
        return bytes(found)

    def begin(self) -> None:
        """The guest listens from here on, and takes in all at once."""

        def send(code: int, body: bytes) -> None:
            self.told.append((code, body))
            self.operations.outbox.arrived(1)
            if code == Notice.REPEAT:
                self.operations.outbox.repeat_ended(int.from_bytes(body[:8], "little"), 0)

        self.operations.outbox.begin(send)

    def until_told(self, *wanted: tuple[int, bytes]) -> None:
        self.until(lambda: set(wanted) <= set(self.told))

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < end, self.told
            time.sleep(0.005)
