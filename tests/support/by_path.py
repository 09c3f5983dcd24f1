"""A share server on a system that tells of changes as macOS does: at which paths, several as one, late.

python -m tests.support.by_path [any-case] NUMBER, as proa.shares. What it makes of inotify's changes is what
Apple's documentation says of FSEvents with kFSEventStreamCreateFlagFileEvents: flags gather for a path for a
while, a move is one flag at both paths, and a path is what it was called when the change was made.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from proa.shares.__main__ import main
from proa.system.beneath import Descriptor, names_in
from proa.system.inotify import Inotify
from proa.system.watching import CONTENT, NAMES, Change, Kind

_MOVE = Kind.MOVED_FROM | Kind.MOVED_TO
_GATHERS = 0.004  # seconds in which changes become one
_LASTS = 0.1  # seconds for which what happened to a path before is said of it again


class ByPath:
    """Watches all folders of all shares, whether the guest knows them or not."""

    by_path = True

    def __init__(self, seed: int = 1) -> None:
        self._inotify = Inotify()
        self._chance = random.Random(seed)
        self._folders: dict[int, Descriptor] = {}
        self._paths: dict[int, bytes] = {}
        self._before: dict[bytes, tuple[float, Kind]] = {}
        self._last = 0

    def follow(self, roots: Sequence[bytes]) -> None:
        for root in roots:
            for _ in self._go_through(root):
                pass  # nobody knows of it yet

    def _go_through(self, path: bytes) -> Iterator[Change]:
        """Watch a folder and all in it: what is in there may have been changed before that."""
        with contextlib.suppress(OSError):
            folder = Descriptor(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW))
            number = self._inotify.watch(folder.number, b".", folder=True)
            self._folders[number], self._paths[number] = folder, _path_of(folder)
            for name in names_in(folder):
                inner = b"/".join((path, name))
                yield Change(0, Kind.CREATED | Kind.MODIFIED, inner)
                yield from self._go_through(inner)

    def of_any_case(self, device: int) -> bool:
        return False

    def tells_all(self, device: int) -> bool:
        return self._inotify.tells_all(device)

    def watch(self, parent: int, name: bytes, *, folder: bool, only_names: bool = False) -> int:
        if not folder:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        self._last += 1
        return self._last

    def unwatch(self, watch: int) -> None:
        pass

    def has_unread(self) -> bool:
        return self._inotify.has_unread()

    def close(self) -> None:
        self._inotify.close()

    def read(self, timeout: float, begin: Callable[[], None] = lambda: None) -> list[Change]:
        found = self._inotify.read(timeout, begin)
        end = time.monotonic() + _GATHERS * self._chance.random()
        while found and (left := end - time.monotonic()) > 0:
            found += self._inotify.read(left)
        whole = [change for change in found if change.kind & (Kind.OVERFLOW | Kind.MOUNTED)]
        merged = self._merged(found)
        return [*(Change(0, self._gathered(*item) | Kind.PATH, item[0]) for item in merged.items()), *whole]

    def _merged(self, found: list[Change]) -> dict[bytes, Kind]:
        merged: dict[bytes, Kind] = {}
        for path, kind in self._with_paths(found):
            before = merged.get(path, Kind(0))
            if self._chance.random() < 0.5:
                merged.pop(path, None)  # told where the last of them was
            merged[path] = before | kind | (_MOVE if kind & _MOVE else Kind(0))
        return merged

    def _with_paths(self, found: list[Change]) -> Iterator[tuple[bytes, Kind]]:
        halves = Counter(change.cookie for change in found)
        moving: dict[int, bytes] = {}  # cookie: where it came from
        for change in found:
            path = self._path(change)
            if path and change.kind & (CONTENT | NAMES):
                yield path, change.kind
            if change.kind & Kind.FOLDER and change.kind & _MOVE:
                if halves[change.cookie] < 2:
                    self._look_for_all()  # the other half is where nothing is watched, or comes next
                elif change.kind & Kind.MOVED_FROM:
                    moving[change.cookie] = path
                else:
                    self._moved(moving[change.cookie], path)
            if change.kind & Kind.FOLDER and change.kind & (Kind.CREATED | Kind.MOVED_TO):
                yield from ((new.name, new.kind) for new in self._go_through(path))
            if change.kind & Kind.ENDED:
                self._folders.pop(change.watch, None)
                self._paths.pop(change.watch, None)
        if moving:  # what was found where it is by now has been moved once too often
            self._look_for_all()

    def _path(self, change: Change) -> bytes:
        folder = self._paths.get(change.watch, b"")
        return b"/".join((folder, change.name)) if folder and change.name else folder

    def _moved(self, old: bytes, new: bytes) -> None:
        for number, known in self._paths.items():
            if (known + b"/").startswith(old + b"/"):
                self._paths[number] = new + known[len(old) :]

    def _look_for_all(self) -> None:
        self._paths = {number: _path_of(folder) for number, folder in self._folders.items()}

    def _gathered(self, path: bytes, kind: Kind) -> Kind:
        now = time.monotonic()
        when, before = self._before.get(path, (0.0, Kind(0)))
        kind |= before if now - when < _LASTS else Kind(0)
        self._before[path] = now, kind
        return kind


def _path_of(folder: Descriptor) -> bytes:
    return os.fsencode(Path(f"/proc/self/fd/{folder.number}").readlink())


class AnyCase(ByPath):
    """On a disk where names may be written in any case, and nobody else writes."""

    def of_any_case(self, device: int) -> bool:
        return True

    def tells_all(self, device: int) -> bool:
        return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[-2:], AnyCase if sys.argv[1] == "any-case" else ByPath))
