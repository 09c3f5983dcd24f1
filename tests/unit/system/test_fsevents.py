"""macOS's changes of folders, against a system that is played: its names and numbers are those that
pyobjc-framework-FSEvents 12.2.2 has in FSEvents/_metadata.py, its calls those of PyObjCTest/test_fsevents.py,
and what it tells is as Apple's "File System Events Programming Guide" and FSEvents.h describe it.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from proa.system.watching import Change, Kind, Watcher

CONSTANTS = {
    "CreateFlagNoDefer": 0x2, "CreateFlagWatchRoot": 0x4, "CreateFlagFileEvents": 0x10,
    "EventFlagMustScanSubDirs": 0x1, "EventFlagUserDropped": 0x2, "EventFlagKernelDropped": 0x4,
    "EventFlagEventIdsWrapped": 0x8, "EventFlagHistoryDone": 0x10, "EventFlagRootChanged": 0x20,
    "EventFlagMount": 0x40, "EventFlagUnmount": 0x80, "EventFlagItemCreated": 0x100,
    "EventFlagItemRemoved": 0x200, "EventFlagItemInodeMetaMod": 0x400, "EventFlagItemRenamed": 0x800,
    "EventFlagItemModified": 0x1000, "EventFlagItemFinderInfoMod": 0x2000,
    "EventFlagItemChangeOwner": 0x4000, "EventFlagItemXattrMod": 0x8000, "EventFlagItemIsFile": 0x10000,
    "EventFlagItemIsDir": 0x20000, "EventFlagItemCloned": 0x400000,
}  # fmt: skip
CREATED, REMOVED, RENAMED, MODIFIED, FILE, FOLDER = 0x100, 0x200, 0x800, 0x1000, 0x10000, 0x20000


class Loop:
    def __init__(self) -> None:
        self.ended = threading.Event()


class Stream:
    def __init__(self, callback: Callable[..., None], paths: Sequence[str], since: int, how: int) -> None:
        self.callback = callback
        self.paths, self.since, self.how = paths, since, how
        self.calls: list[str] = []


class System(types.ModuleType):
    """What is used of the framework. Loops belong to threads, as they do there."""

    kCFRunLoopDefaultMode = "kCFRunLoopDefaultMode"

    def __init__(self) -> None:
        super().__init__("FSEvents")
        for name, value in CONSTANTS.items():
            setattr(self, f"kFSEventStream{name}", value)
        self.streams: list[Stream] = []
        self.starts = True
        self._loops = threading.local()

    def FSEventsGetCurrentEventId(self) -> int:
        return 40 + len(self.streams)

    def FSEventStreamCreate(
        self, allocator: None, callback: Callable[..., None], info: None, paths: list[str],
        since: int, latency: float, how: int,
    ) -> Stream:  # fmt: skip
        self.streams.append(Stream(callback, paths, since, how))
        return self.streams[-1]

    def CFRunLoopGetCurrent(self) -> Loop:
        if not hasattr(self._loops, "own"):
            self._loops.own = Loop()
        found: Loop = self._loops.own
        return found

    def CFRunLoopRun(self) -> None:
        assert self.CFRunLoopGetCurrent().ended.wait(10)

    def CFRunLoopStop(self, loop: Loop) -> None:
        loop.ended.set()

    def FSEventStreamScheduleWithRunLoop(self, stream: Stream, loop: Loop, mode: str) -> None:
        stream.calls.append("schedule")

    def FSEventStreamStart(self, stream: Stream) -> bool:
        stream.calls.append("start")
        return self.starts

    def FSEventStreamStop(self, stream: Stream) -> None:
        stream.calls.append("stop")

    def FSEventStreamInvalidate(self, stream: Stream) -> None:
        stream.calls.append("invalidate")

    def FSEventStreamRelease(self, stream: Stream) -> None:
        stream.calls.append("release")

    def tell(self, *events: tuple[str, int]) -> None:
        """As the framework calls back: paths as C strings, which become bytes."""
        stream = self.streams[-1]
        paths, flags = zip(*events, strict=True)
        numbers = tuple(range(len(events)))
        stream.callback(stream, None, len(events), tuple(map(os.fsencode, paths)), flags, numbers)


class Volumes(types.ModuleType):
    """NSURL's resource values, of which FSEvents' sibling Foundation tells."""

    NSURLVolumeIsLocalKey = "NSURLVolumeIsLocalKey"
    NSURLVolumeSupportsCaseSensitiveNamesKey = "NSURLVolumeSupportsCaseSensitiveNamesKey"

    def __init__(self) -> None:
        super().__init__("Foundation")
        self.says: dict[str, bool | None] = {self.NSURLVolumeIsLocalKey: True}
        self.NSURL = self

    def fileURLWithPath_isDirectory_(self, path: str, folder: bool) -> Volumes:
        return self

    def getResourceValue_forKey_error_(
        self, value: None, key: str, error: None
    ) -> tuple[bool, bool | None, object]:
        return key in self.says, self.says.get(key), None


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    found = System()
    monkeypatch.setitem(sys.modules, "FSEvents", found)
    monkeypatch.setitem(sys.modules, "Foundation", Volumes())
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delitem(sys.modules, "proa.system.fsevents", raising=False)
    return found


@pytest.fixture
def watcher(system: System, tmp_path: Path) -> Iterator[Watcher]:
    found = open_watcher()
    (tmp_path / "shared").mkdir()
    found.follow([os.fsencode(tmp_path / "shared")])
    yield found
    found.close()


def open_watcher() -> Watcher:
    watcher: Watcher | None = importlib.import_module("proa.system.watching").open_watcher()
    assert watcher is not None
    return watcher


def told(watcher: Watcher) -> list[Change]:
    return watcher.read(0)


def test_a_stream_of_changes_of_files_begins_with_what_is_shared(
    system: System, watcher: Watcher, tmp_path: Path
) -> None:
    [stream] = system.streams
    assert stream.paths == [str((tmp_path / "shared").resolve())]
    assert stream.how == 0x10 | 0x2 | 0x4
    assert stream.calls == ["schedule", "start"]
    watcher.close()
    assert stream.calls == ["schedule", "start", "stop", "invalidate", "release"]


def test_flags_say_what_may_have_happened(system: System, watcher: Watcher, tmp_path: Path) -> None:
    place = f"{tmp_path}/shared"
    system.tell(
        (f"{place}/a", CREATED | MODIFIED | FILE),
        (f"{place}/b", RENAMED | FOLDER),
        (f"{place}/c", REMOVED | FILE),
        (f"{place}/d", 0x8000 | FILE),
        (f"{place}/e", FILE),
    )
    path = os.fsencode(place)
    assert watcher.has_unread()
    assert told(watcher) == [
        Change(0, Kind.PATH | Kind.CREATED | Kind.MODIFIED, path + b"/a"),
        Change(0, Kind.PATH | Kind.MOVED_FROM | Kind.MOVED_TO | Kind.FOLDER, path + b"/b"),
        Change(0, Kind.PATH | Kind.DELETED, path + b"/c"),
        Change(0, Kind.PATH | Kind.ATTRIBUTES, path + b"/d"),
    ]
    assert not watcher.has_unread()
    assert told(watcher) == []


@pytest.mark.parametrize("flag", (0x1, 0x2 | 0x1, 0x4 | 0x1, 0x8))
def test_what_could_not_be_told_wants_a_look_at_everything(
    system: System, watcher: Watcher, tmp_path: Path, flag: int
) -> None:
    system.tell((f"{tmp_path}/shared/", flag))
    assert told(watcher) == [Change(0, Kind.OVERFLOW)]


@pytest.mark.parametrize("flag", (0x20, 0x40, 0x80))
def test_another_folder_or_disk_is_there(system: System, watcher: Watcher, tmp_path: Path, flag: int) -> None:
    system.tell((f"{tmp_path}/shared/disk", flag))
    assert told(watcher) == [Change(0, Kind.MOUNTED, os.fsencode(f"{tmp_path}/shared/disk"))]


def test_paths_are_those_that_the_user_has_shared(system: System, watcher: Watcher, tmp_path: Path) -> None:
    """The system tells where a folder really is: /tmp is /private/tmp."""
    (tmp_path / "really").mkdir()
    (tmp_path / "link").symlink_to("really")
    watcher.follow([os.fsencode(tmp_path / "link")])
    system.tell(
        (f"{tmp_path}/really/a", CREATED), (f"{tmp_path}/really", 0x400), (f"{tmp_path}/else", CREATED)
    )
    link = os.fsencode(tmp_path / "link")
    assert told(watcher) == [
        Change(0, Kind.PATH | Kind.CREATED, link + b"/a"),
        Change(0, Kind.PATH | Kind.ATTRIBUTES, link),
    ]


def test_nothing_is_lost_when_something_else_is_shared(
    system: System, watcher: Watcher, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    watcher.follow([os.fsencode(tmp_path / "shared"), os.fsencode(tmp_path / "more")])
    before, now = system.streams
    assert len(now.paths) == 2
    assert now.since == 41, "from before the other ended"
    assert before.calls[-1] == "release"
    watcher.follow([])
    assert now.calls[-1] == "release"


def test_who_cannot_be_told_is_refused(system: System, tmp_path: Path) -> None:
    system.starts = False
    with pytest.raises(OSError, match="does not tell of changes"):
        open_watcher().follow([os.fsencode(tmp_path)])
    assert system.streams[-1].calls == ["schedule", "start", "invalidate", "release"]


def test_only_this_computers_own_disks_are_told_of(system: System, watcher: Watcher, tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    assert watcher.tells_all(device)
    assert not watcher.tells_all(device + 1), "a disk within a share, which may be another computer's"
    volumes: Any = sys.modules["Foundation"]
    volumes.says[volumes.NSURLVolumeIsLocalKey] = False
    watcher.follow([os.fsencode(tmp_path / "shared")])
    assert not watcher.tells_all(device)


def test_a_disk_takes_names_in_any_case_unless_it_says_otherwise(
    system: System, watcher: Watcher, tmp_path: Path
) -> None:
    device = tmp_path.stat().st_dev
    assert watcher.of_any_case(device)
    volumes: Any = sys.modules["Foundation"]
    volumes.says[volumes.NSURLVolumeSupportsCaseSensitiveNamesKey] = True
    watcher.follow([os.fsencode(tmp_path / "shared")])
    assert not watcher.of_any_case(device)
    assert watcher.of_any_case(device + 1)


def test_a_file_is_not_watched_by_itself(watcher: Watcher, tmp_path: Path) -> None:
    assert watcher.watch(0, b"a", folder=True) != watcher.watch(0, b"b", folder=True)
    with pytest.raises(OSError):
        watcher.watch(0, b"a", folder=False)
