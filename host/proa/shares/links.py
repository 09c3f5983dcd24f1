"""Where a host path leads that goes through absolute links (proa.model.link_path), read anew each time.

The guest asks by names that are hostile input: a link is followed only if it lies in a share, or in a folder
above all shares, and where the path leads must be shared too. So nothing is told of what lies elsewhere.
"""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Callable

from proa.system import beneath
from proa.system.beneath import Descriptor

MOST_NAMES = 500  # of a path with all that its links add


class _Way:
    """The folders that a path has come through, held open: none of them is a link."""

    def __init__(self) -> None:
        self._held = [beneath.open_root(b"/")]
        self._names: list[bytes] = []

    def __truediv__(self, name: bytes) -> bytes:
        return b"/" + b"/".join((*self._names, name))

    @property
    def path(self) -> bytes:
        return b"/" + b"/".join(self._names)

    @property
    def folder(self) -> Descriptor:
        return self._held[-1]

    def up(self) -> None:
        if self._names:
            self._held.pop()
            self._names.pop()

    def down(self, name: bytes) -> None:
        self._held.append(beneath.open_folder(self.folder, name))
        self._names.append(name)

    def anew(self) -> None:
        del self._held[1:], self._names[:]


def leads_to(path: bytes, may_follow: Callable[[bytes], bool]) -> bytes | None:
    """The path without links that a whole path leads to; None where that is not to be told.

    `may_follow` says of a path, without links but for its last name, whether a link there may be followed.
    What is not there leads to itself. Raises OSError.
    """
    way, names = _Way(), deque(_names(path))
    for _ in range(MOST_NAMES):
        if not names:
            return way.path
        name = names.popleft()
        if name == b"..":
            way.up()
            continue
        try:
            mode = beneath.status(way.folder, name).st_mode
        except FileNotFoundError:
            return None if b".." in names else b"/".join((way / name, *names))
        if stat.S_ISDIR(mode):
            way.down(name)
        elif not stat.S_ISLNK(mode):
            return way / name if not names else None
        else:
            if not may_follow(way / name):
                return None
            target = beneath.link_target(way.folder, name)
            if target.startswith(b"/"):
                way.anew()
            names.extendleft(reversed(_names(target)))
    return None


def _names(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name not in (b"", b".")]
