"""FSEvents, macOS's way to tell of changes: at which paths, not how, several as one and some time after.

A thread runs the system's loop for one stream over all folders that are followed.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

assert sys.platform == "darwin"

import Foundation
import FSEvents

from proa.system.watching import ByPath, Change, Kind

LATENCY = 0.005  # seconds in which changes are gathered
STARTS = 10.0  # seconds that a stream may take until it tells
_KINDS = (
    (FSEvents.kFSEventStreamEventFlagItemCreated, Kind.CREATED),
    (FSEvents.kFSEventStreamEventFlagItemCloned, Kind.CREATED),
    (FSEvents.kFSEventStreamEventFlagItemRemoved, Kind.DELETED),
    (FSEvents.kFSEventStreamEventFlagItemRenamed, Kind.MOVED_FROM | Kind.MOVED_TO),
    (FSEvents.kFSEventStreamEventFlagItemModified, Kind.MODIFIED),
    (FSEvents.kFSEventStreamEventFlagItemInodeMetaMod, Kind.ATTRIBUTES),
    (FSEvents.kFSEventStreamEventFlagItemFinderInfoMod, Kind.ATTRIBUTES),
    (FSEvents.kFSEventStreamEventFlagItemChangeOwner, Kind.ATTRIBUTES),
    (FSEvents.kFSEventStreamEventFlagItemXattrMod, Kind.ATTRIBUTES),
    (FSEvents.kFSEventStreamEventFlagItemIsDir, Kind.FOLDER),
)
_LOST = (
    FSEvents.kFSEventStreamEventFlagMustScanSubDirs
    | FSEvents.kFSEventStreamEventFlagUserDropped
    | FSEvents.kFSEventStreamEventFlagKernelDropped
    | FSEvents.kFSEventStreamEventFlagEventIdsWrapped
)
_OTHERS = (
    FSEvents.kFSEventStreamEventFlagRootChanged
    | FSEvents.kFSEventStreamEventFlagMount
    | FSEvents.kFSEventStreamEventFlagUnmount
)
_HOW = (
    FSEvents.kFSEventStreamCreateFlagFileEvents
    | FSEvents.kFSEventStreamCreateFlagNoDefer
    | FSEvents.kFSEventStreamCreateFlagWatchRoot
)


class FolderEvents(ByPath):
    def __init__(self) -> None:
        super().__init__()
        self._roots: dict[bytes, bytes] = {}  # where a folder really is: how it is called
        self._disks: dict[int, _Disk] = {}
        self._stream: _Stream | None = None

    def follow(self, roots: Sequence[bytes]) -> None:
        if not roots and self._stream is None:
            return
        self._roots = {os.fsencode(Path(os.fsdecode(root)).resolve()): root for root in roots}
        self._disks = {}  # nothing is told of until the stream begins
        before, self._stream = self._stream, None
        # The next begins before the last ends: what is told by both is looked at twice.
        since = FSEvents.FSEventsGetCurrentEventId()
        if self._roots:
            self._stream = _Stream([os.fsdecode(path) for path in self._roots], since, self._tell)
        if before is not None:
            before.close()
        there = [Path(os.fsdecode(path)) for path in self._roots]
        self._disks = {path.stat().st_dev: _Disk(path) for path in there if path.exists()}

    def tells_all(self, device: int) -> bool:
        disk = self._disks.get(device)
        return disk is not None and disk.is_local

    def of_any_case(self, device: int) -> bool:
        disk = self._disks.get(device)
        return disk is None or disk.of_any_case

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _tell(self, paths: Sequence[bytes], flags: Sequence[int]) -> None:
        self._hear(
            [change for path, flag in zip(paths, flags, strict=True) for change in self._changes(path, flag)]
        )

    def _changes(self, path: bytes, flags: int) -> list[Change]:
        if flags & _LOST:
            return [Change(0, Kind.OVERFLOW)]
        name = self._as_shared(path)
        if flags & _OTHERS:
            return [Change(0, Kind.MOUNTED, name or path)]
        kind = Kind(0)
        for flag, meant in _KINDS:
            kind |= meant if flags & flag else Kind(0)
        return [Change(0, kind | Kind.PATH, name)] if name and kind & ~Kind.FOLDER else []

    def _as_shared(self, path: bytes) -> bytes:
        """The path as the shared folder is called; empty outside of all."""
        path = path.rstrip(b"/") or b"/"
        for real in sorted(self._roots, key=len, reverse=True):
            if path == real or path.startswith(real.rstrip(b"/") + b"/"):
                rest = path[len(real.rstrip(b"/")) :]
                return (self._roots[real].rstrip(b"/") + rest) or b"/"
        return b""


class _Disk:
    """What the file system of a folder says of itself."""

    def __init__(self, path: Path) -> None:
        url = Foundation.NSURL.fileURLWithPath_isDirectory_(str(path), True)
        self.is_local = _says(url, Foundation.NSURLVolumeIsLocalKey)  # nobody else changes it
        self.of_any_case = not _says(url, Foundation.NSURLVolumeSupportsCaseSensitiveNamesKey)


def _says(url: Any, key: str) -> bool:
    """False where it cannot be found out."""
    found, value, _ = url.getResourceValue_forKey_error_(None, key, None)
    return bool(found and value)


class _Stream:
    """One of the system's streams, with the thread that it needs. Raises OSError."""

    def __init__(
        self, paths: list[str], since: int, tell: Callable[[Sequence[bytes], Sequence[int]], None]
    ) -> None:
        self._tell = tell
        self._loop: Any = None
        self._begun = threading.Event()
        self._works = False
        self._thread = threading.Thread(target=self._run, args=(paths, since), name="fsevents", daemon=True)
        self._thread.start()
        if not self._begun.wait(STARTS) or not self._works:
            self._thread.join(0.1)
            raise OSError(errno.EIO, "macOS does not tell of changes in the shared folders")

    def _run(self, paths: list[str], since: int) -> None:
        stream = FSEvents.FSEventStreamCreate(None, self._called, None, paths, since, LATENCY, _HOW)
        self._loop = FSEvents.CFRunLoopGetCurrent()
        FSEvents.FSEventStreamScheduleWithRunLoop(stream, self._loop, FSEvents.kCFRunLoopDefaultMode)
        self._works = FSEvents.FSEventStreamStart(stream)
        self._begun.set()
        if self._works:
            FSEvents.CFRunLoopRun()
            FSEvents.FSEventStreamStop(stream)
        FSEvents.FSEventStreamInvalidate(stream)
        FSEvents.FSEventStreamRelease(stream)

    def _called(
        self, stream: Any, info: Any, count: int, paths: Sequence[bytes], flags: Sequence[int], ids: Any
    ) -> None:
        self._tell(paths, flags)

    def close(self) -> None:
        FSEvents.CFRunLoopStop(self._loop)
        self._thread.join(STARTS)
