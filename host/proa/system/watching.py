"""Changes of the host's folders, told by the system: what is watched is a file or folder, not a path.

Linux has inotify(7), macOS FSEvents, Windows ReadDirectoryChangesW; a system without a way of its own is told
apart by `open_watcher` giving None, and whoever asks then trusts nothing that was not just looked at.
"""

from __future__ import annotations

import enum
import errno
import itertools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


class Kind(enum.IntFlag):
    """What happened; the numbers are those of linux/inotify.h."""

    MODIFIED = 0x2  # the content
    ATTRIBUTES = 0x4
    CLOSED = 0x8  # by one that could write
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    CREATED = 0x100
    DELETED = 0x200
    SELF_DELETED = 0x400
    SELF_MOVED = 0x800
    PATH = 0x1000  # `name` is a whole path, where something may have changed: what, is only a hint
    MOUNTED = 0x2000  # `name` is a whole path, where another file system is from now on
    OVERFLOW = 0x4000  # more happened than could be told: look at everything
    ENDED = 0x8000  # the watch is gone, for what was watched is
    STAYED = 0x10000  # `name` is one where mounts have changed, and the same file system seems to be
    FOLDER = 0x40000000


CONTENT = Kind.MODIFIED | Kind.ATTRIBUTES | Kind.CLOSED
NAMES = Kind.MOVED_FROM | Kind.MOVED_TO | Kind.CREATED | Kind.DELETED


@dataclass(frozen=True, slots=True)
class Change:
    """`name` is in what is watched, or empty for that itself; the halves of a move share `cookie`."""

    watch: int
    kind: Kind
    name: bytes = b""
    cookie: int = 0


class TooManyWatchesError(OSError):
    """The system allows no more. The text says how it can be told to."""


class Watcher(Protocol):
    """Safe for several threads, but for `read`, which belongs to one.

    One tells of each change once, by the number of what is watched; another, `by_path`, only where something
    may have changed, and of several changes at once.
    """

    by_path: bool

    def follow(self, roots: Sequence[bytes]) -> None:
        """What is watched lies in these folders from here on: whole paths, of what exists or may come.

        Raises OSError; nothing is told then.
        """

    def of_any_case(self, device: int) -> bool:
        """Whether names may be written in any case on a file system, and changes are told by one of these."""

    def watch(self, parent: int, name: bytes, *, folder: bool, only_names: bool = False) -> int:
        """Watch what is called so in an open folder; the number that its changes have, above 0.

        What is watched already keeps its number, and tells of what is asked for by either. `only_names`: of
        a folder, what comes and goes in it, and where it goes itself.

        Raises OSError, and TooManyWatchesError of it.
        """

    def tells_all(self, device: int) -> bool:
        """Whether it hears of all changes on a file system (stat(2)'s number): others may write there too."""

    def unwatch(self, watch: int) -> None: ...

    def read(self, timeout: float, begin: Callable[[], None] = lambda: None) -> list[Change]:
        """What happened since, in order; empty after `timeout` seconds without anything.

        `begin` is called when there is something, before it is taken.
        """

    def has_unread(self) -> bool:
        """Whether something has happened that was not read yet. May be asked from any thread."""

    def close(self) -> None: ...


class ByPath:
    """What they have in common that tell by path: one thread hears, another reads."""

    by_path = True

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._told: list[Change] = []
        self._numbers = itertools.count(1)

    def watch(self, parent: int, name: bytes, *, folder: bool, only_names: bool = False) -> int:
        if not folder:  # whoever writes to it by another of its names is told of by that
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        return next(self._numbers)

    def unwatch(self, watch: int) -> None:
        """Folders are not watched each by itself."""

    def read(self, timeout: float, begin: Callable[[], None] = lambda: None) -> list[Change]:
        with self._ready:
            if not self._ready.wait_for(lambda: self._told, timeout):
                return []
            begin()
            told, self._told = self._told, []
            return told

    def has_unread(self) -> bool:
        return bool(self._told)

    def _hear(self, changes: list[Change]) -> None:
        with self._ready:
            self._told += changes
            self._ready.notify_all()


def open_watcher() -> Watcher | None:
    """None where this system has no way that is known here. Raises OSError."""
    if sys.platform == "linux":
        from proa.system.inotify import Inotify  # not to be had elsewhere

        return Inotify()
    if sys.platform == "darwin":
        from proa.system.fsevents import FolderEvents  # not to be had elsewhere

        return FolderEvents()
    if sys.platform == "win32":
        from proa.system.folder_changes import FolderChanges  # not to be had elsewhere

        return FolderChanges()
    return None
