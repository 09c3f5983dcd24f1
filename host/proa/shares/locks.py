"""Locks on files that count on the host as well: each owner in the guest has an open file of its own here.

Without the setting the guest's kernel keeps locks itself and asks for none. Who waits for a lock is answered
when it can be had: locks of the guest's are tried again as soon as another is given up, and the host's after
a moment, for no system tells of those without a thread for each that waits.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from proa.shares.handles import Body, Handles
from proa.shares.nodes import Node
from proa.shares.notices import or_end
from proa.shares.own import OwnChanges
from proa.shares.protocol import Op, Refused, Request, fields, linux_errno
from proa.shares.records import Locked
from proa.shares.tree import Tree, identity
from proa.system import beneath, file_locks
from proa.system.beneath import Descriptor
from proa.system.file_locks import NONE, Range

log = logging.getLogger("proa.shares")

MOST = 8192  # owners; each costs a descriptor
MOST_WAITING = 1024
PAUSE = 0.01  # seconds after which a lock that the host holds is tried again
# linux/fuse.h: fuse_lk_in (handle, owner, start, end, kind, process, flags) and fuse_lk_out; flags in the
# first, and in fuse_release_in.
_LOCK_IN, _LOCK_OUT = "<4Q3I4x", struct.Struct("<2Q2I")
_IS_FLOCK, _RELEASES_FLOCK = 1, 2
_ALL = Range(0, file_locks.TO_THE_END, NONE)

Answer = Callable[[int, int], None]  # a request and the error that it ends with, or 0; raises OSError


class Key(NamedTuple):
    """Whose locks: an owner's, as the guest's kernel calls it, on a node, of one of the two kinds."""

    node: int
    owner: int
    by_flock: bool


@dataclass(slots=True)
class _Owner:
    number: int  # of `file`, when another server gets it
    node: Node
    file: Descriptor
    writable: bool
    held: tuple[Range, ...] = ()


@dataclass(frozen=True, slots=True)
class _Wanted:
    key: Key
    node: Node
    handle: int
    range: Range


class Locks:
    """Safe for several threads."""

    def __init__(self, tree: Tree, handles: Handles, own: OwnChanges) -> None:
        self.with_host = False  # the guest's kernel is to ask for each lock
        self._tree = tree
        self._handles = handles
        self._own = own
        self._owners: dict[Key, _Owner] = {}
        self._waiting: dict[int, _Wanted] = {}  # by their requests' numbers
        self._ready = threading.Condition()
        self._answer: Answer | None = None
        self._thread: threading.Thread | None = None

    def begin(self, answer: Answer) -> None:
        """There is a stream, over which those that wait are answered."""
        with self._ready:
            self._answer = answer

    def end(self) -> None:
        """It has ended: whoever waits asks again over the next."""
        with self._ready:
            self._answer = None
            self._waiting.clear()

    # -- what is asked ------------------------------------------------------------------------

    def set(self, request: Request) -> Body | None:
        """Answers SETLK, and SETLKW, perhaps later."""
        wanted = self._wanted(request)
        with self._ready:
            if self._try(wanted):
                return b""
            if request.op == Op.SETLK:
                raise Refused("EAGAIN")
            if len(self._waiting) >= MOST_WAITING:
                raise Refused("ENOLCK")
            self._waiting[request.unique] = wanted
            self._ready.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="locks", daemon=True)
                self._thread.start()
        return None

    def get(self, request: Request) -> Body:
        """What would be in the way of a lock; the process only where it is one of the guest's."""
        wanted = self._wanted(request)
        with self._ready:
            owner = self._owners.get(wanted.key)
            owner = owner or self._new_owner(wanted)
            found = file_locks.in_the_way(owner.file, wanted.range)
            if found is None:
                return _LOCK_OUT.pack(0, 0, NONE, 0)
            return _LOCK_OUT.pack(found.start, found.end, found.kind, self._pid(wanted.key, found))

    def flush(self, request: Request) -> Body:
        """A process has closed a file: its locks on it end. Raises Refused where none asks for locks."""
        if not self._tree.asks_for_locks:
            raise Refused("ENOSYS")
        _, _, _, owner = fields("<Q2IQ", request.body)
        self._drop(Key(request.node, owner, by_flock=False))
        return b""

    def released(self, request: Request) -> None:
        """An open file has been closed by all who had it."""
        _, _, flags, owner = fields("<Q2IQ", request.body)
        if flags & _RELEASES_FLOCK:
            self._drop(Key(request.node, owner, by_flock=True))

    def interrupt(self, request: Request) -> None:
        """Somebody does not want to wait any more."""
        [unique] = fields("<Q", request.body)
        with self._ready:
            answer = self._answer if self._waiting.pop(unique, None) is not None else None
        if answer is not None:
            answer(unique, linux_errno(4))  # EINTR

    def _wanted(self, request: Request) -> _Wanted:
        handle, owner, start, end, kind, pid, flags = fields(_LOCK_IN, request.body)
        if kind not in (file_locks.READ, file_locks.WRITE, NONE) or start > min(end, file_locks.TO_THE_END):
            raise Refused("EINVAL")
        key = Key(request.node, owner, bool(flags & _IS_FLOCK))
        wanted = Range(start, min(end, file_locks.TO_THE_END), kind, pid)
        return _Wanted(key, self._tree.node(request.node), handle, wanted)

    def _pid(self, key: Key, found: Range) -> int:
        for (node, _, by_flock), owner in self._owners.items():
            if (node, by_flock) == (key.node, key.by_flock):
                for held in owner.held:
                    if held.start <= found.end and found.start <= held.end:
                        return held.pid
        return 0

    # -- what is held -------------------------------------------------------------------------

    def _try(self, wanted: _Wanted) -> bool:
        """Whether it is locked, or unlocked, now. Raises OSError, Refused."""
        owner = self._owners.get(wanted.key)
        if owner is None:
            if wanted.range.kind == NONE:
                return True
            if len(self._owners) >= MOST:
                raise Refused("ENOLCK")
            owner = self._new_owner(wanted)
        elif wanted.range.kind == file_locks.WRITE and not owner.writable and not wanted.key.by_flock:
            # The file that it had is closed with that: its own locks would be in the way.
            owner = self._owners[wanted.key] = self._that_writes(owner, wanted)
            self._tree.note(_as_record(wanted.key, owner))
        if not _locks(owner, wanted.range, by_flock=wanted.key.by_flock):
            return False
        self._hold(wanted.key, owner, wanted.range)
        return True

    def _hold(self, key: Key, owner: _Owner, new: Range) -> None:
        frees = bool(owner.held)
        owner.held = file_locks.changed(owner.held, new)
        if owner.held:
            self._owners[key] = owner
        else:
            self._owners.pop(key, None)
        self._tree.note(_as_record(key, owner))
        if frees and self._waiting:
            self._ready.notify_all()

    def _drop(self, key: Key) -> None:
        with self._ready:
            owner = self._owners.get(key)
            if owner is not None:
                self._hold(key, owner, _ALL)  # its descriptor is closed with it

    def _new_owner(self, wanted: _Wanted) -> _Owner:
        """With the file opened once more, for only so it has locks of its own. Raises OSError, Refused."""
        handle = self._handles.file(wanted.handle)
        if handle.node is not wanted.node:
            raise Refused("EBADF")
        self._own.opens(wanted.node)
        file = self._open(wanted.node, writable=handle.writable)
        return _Owner(self._handles.new_number(), wanted.node, file, handle.writable)

    def _that_writes(self, owner: _Owner, wanted: _Wanted) -> _Owner:
        """The same owner with the file open for writing: what it has locked for reading, two can hold."""
        found = self._new_owner(wanted)
        found.held = owner.held
        for part in owner.held:
            file_locks.lock(found.file, part)
        return found

    def _open(self, node: Node, *, writable: bool) -> Descriptor:
        at = self._tree.locate(node)
        file = beneath.open_file(at.parent, at.name, os.O_RDWR if writable else os.O_RDONLY)
        if identity(beneath.fstat(file.number)) != node.identity:
            raise Refused("ESTALE")
        return file

    # -- who waits ----------------------------------------------------------------------------

    def _work(self) -> None:
        with or_end("locks"):
            while True:
                self._next()

    def _next(self) -> None:
        ended: list[tuple[int, int]] = []
        with self._ready:
            self._ready.wait_for(lambda: self._waiting)
            for unique, wanted in tuple(self._waiting.items()):
                number = self._tried(wanted)
                if number is not None:
                    del self._waiting[unique]
                    ended.append((unique, number))
            answer = self._answer
            if not ended:
                self._ready.wait(PAUSE)
        if answer is not None:
            try:
                for unique, number in ended:
                    answer(unique, number)
            except OSError as error:
                log.debug("who waited for a lock asks again over the next stream: %s", error)

    def _tried(self, wanted: _Wanted) -> int | None:
        """The number of an error, 0 for none; None where it is still held by somebody else."""
        try:
            return 0 if self._try(wanted) else None
        except Refused as error:
            return error.number
        except OSError as error:
            return linux_errno(error.errno)

    # -- for the next server ------------------------------------------------------------------

    def records(self) -> Iterator[Locked]:
        with self._ready:
            owners = tuple(self._owners.items())
        for key, owner in owners:
            yield _as_record(key, owner)

    def descriptors(self) -> list[tuple[int, Descriptor]]:
        """With them their locks stay: by the numbers that are in `records`."""
        with self._ready:
            return [(owner.number, owner.file) for owner in self._owners.values()]

    def restore(
        self, kept: Mapping[Key, Locked], nodes: Mapping[int, Node], left: Mapping[int, Descriptor]
    ) -> None:
        """Go on with an earlier server's; what it has not left is locked again, if nobody was faster."""
        for key, record in kept.items():
            node = nodes.get(record.node)
            if node is None or not self._tree.is_shared(node):
                continue
            held = tuple(Range(*part) for part in record.held)
            file = left.get(record.number)
            writes = any(part.kind == file_locks.WRITE for part in held)
            if file is not None:
                self._owners[key] = _Owner(record.number, node, file, writes, held)
            else:
                self._lock_again(key, node, record.number, held, writable=writes)

    def _lock_again(
        self, key: Key, node: Node, number: int, held: tuple[Range, ...], *, writable: bool
    ) -> None:
        try:
            owner = _Owner(number, node, self._open(node, writable=writable), writable)
            got = [part for part in held if _locks(owner, part, by_flock=key.by_flock)]
        except (OSError, Refused) as error:
            log.warning("a lock of the guest's is lost: %s", error)
            return
        if len(got) < len(held):
            log.warning("a lock of the guest's is lost, for a program of this computer has it by now")
        owner.held = tuple(got)
        if got:
            self._owners[key] = owner


def _locks(owner: _Owner, wanted: Range, *, by_flock: bool) -> bool:
    if not by_flock:
        return file_locks.lock(owner.file, wanted)
    if file_locks.flock(owner.file, wanted.kind):
        return True
    for held in owner.held:  # which flock(2) gives up where it cannot make another of it
        file_locks.flock(owner.file, held.kind)
    return False


def _as_record(key: Key, owner: _Owner) -> Locked:
    held = [(part.start, part.end, part.kind, part.pid) for part in owner.held]
    return Locked(*key, owner.number, held)
