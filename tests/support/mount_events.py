"""Somebody who watches a folder, as programs in a container do."""

from __future__ import annotations

import os
import time
from pathlib import Path

from proa.system.inotify import Inotify
from proa.system.watching import Change, Kind
from tests.support.share_mounts import SOON


class Events:
    """What somebody who watches a folder of the mount is told."""

    def __init__(self, folder: Path) -> None:
        self._watcher = Inotify()
        self._handle = os.open(folder, os.O_RDONLY)
        self._watcher.watch(self._handle, b".", folder=True)
        self.seen: list[Change] = []

    def until(self, *wanted: tuple[str, Kind]) -> bool:
        """Whether all come, in this order."""
        end = time.monotonic() + SOON
        while time.monotonic() < end:
            rest = list(wanted)
            for change in self.seen:
                if rest and change.name == os.fsencode(rest[0][0]) and change.kind & rest[0][1]:
                    del rest[0]
            if not rest:
                return True
            self.seen += self._watcher.read(0.1)
        return False

    def forget(self) -> None:
        """Begin anew: what was told until now is not to be taken for what comes."""
        while self._watcher.read(0):
            pass
        self.seen.clear()

    def names(self) -> set[str]:
        """What in the folder anything has been told of by now."""
        self.seen += self._watcher.read(0)
        # A watcher tells also where anything was mounted, which others may do meanwhile.
        return {os.fsdecode(change.name) for change in self.seen if change.name and b"/" not in change.name}

    def close(self) -> None:
        self._watcher.close()
        os.close(self._handle)
