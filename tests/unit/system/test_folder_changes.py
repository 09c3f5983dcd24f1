"""Windows' own changes of folders, of real ones. Wine tells of what was there before in a folder within not
always, so all that is waited for here is in the folder itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform != "win32":
    pytest.skip("ReadDirectoryChangesW is Windows'", allow_module_level=True)

from proa.system import beneath
from proa.system.folder_changes import FolderChanges
from proa.system.watching import Kind

PATIENCE = 20.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path.resolve() / "shared"
    made.mkdir()
    return made


@pytest.fixture
def watcher(folder: Path) -> Iterator[FolderChanges]:
    found = FolderChanges()
    found.follow([beneath.shared_path(str(folder))])
    yield found
    found.close()


def until(watcher: FolderChanges, path: Path, kind: Kind) -> bool:
    """Whether that is told of the path, within a bounded time."""
    end = time.monotonic() + PATIENCE
    wanted = beneath.shared_path(str(path))
    while time.monotonic() < end:
        if any(change.name == wanted and change.kind & kind for change in watcher.read(0.1)):
            return True
    return False


def test_changes_are_told_by_their_paths(watcher: FolderChanges, folder: Path) -> None:
    file = folder / "a"
    file.write_bytes(b"one")
    assert until(watcher, file, Kind.CREATED)
    file.write_bytes(b"more")
    assert until(watcher, file, Kind.MODIFIED)
    file.rename(folder / "b")
    assert until(watcher, folder / "b", Kind.MOVED_TO)
    (folder / "b").unlink()
    assert until(watcher, folder / "b", Kind.DELETED)


def test_the_guests_names_are_told(watcher: FolderChanges, folder: Path) -> None:
    root = beneath.open_root(beneath.shared_path(str(folder)))
    beneath.make_folder(root, b"a:b", 0o755)
    end = time.monotonic() + PATIENCE
    told = set()
    while time.monotonic() < end and not told:
        told = {change.name for change in watcher.read(0.1)}
    assert told == {beneath.shared_path(str(folder)) + b"/a:b"}


def test_a_folder_that_goes_and_comes_back(watcher: FolderChanges, folder: Path) -> None:
    away = folder.with_name("away")
    folder.rename(away)
    assert until(watcher, folder, Kind.MOUNTED)
    away.rename(folder)
    assert until(watcher, folder, Kind.MOUNTED)
    (folder / "a").write_bytes(b"")
    assert until(watcher, folder / "a", Kind.CREATED)


def test_a_folder_that_comes_later(watcher: FolderChanges, folder: Path) -> None:
    later = folder.with_name("later")
    watcher.follow([beneath.shared_path(str(path)) for path in (folder, later)])
    later.mkdir()
    assert until(watcher, later, Kind.MOUNTED)
    (later / "a").write_bytes(b"")
    assert until(watcher, later / "a", Kind.CREATED)


def test_what_is_not_followed_any_more_is_not_told(watcher: FolderChanges, folder: Path) -> None:
    device = beneath.status_at(beneath.shared_path(str(folder))).st_dev
    assert watcher.tells_all(device) and watcher.of_any_case(device)
    watcher.follow([])
    assert not watcher.tells_all(device)
    (folder / "a").write_bytes(b"")
    assert watcher.read(0.5) == [] and not watcher.has_unread()
