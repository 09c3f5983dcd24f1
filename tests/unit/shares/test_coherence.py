"""What the host changes: the guest sees it though it trusts what it was told, and its watchers are told."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proa.system.inotify import Inotify
from proa.system.watching import Change, Kind
from tests.support.mount_events import Events
from tests.support.share_mounts import ShareMount, exists, soon

pytestmark = [pytest.mark.timeout(60)]


def requests(mount: ShareMount, work: Callable[[], object]) -> int:
    """How many requests the server gets from it."""
    before = mount.asked()
    work()
    return mount.asked() - before


# -- trusting --------------------------------------------------------------------------------------


def test_what_was_looked_at_is_not_asked_for_again(mount: ShareMount, host: Path) -> None:
    guest = mount.path(host)
    (host / "sub").mkdir()
    for name in ("a", "b", "sub/c"):
        (host / name).write_text("x")
    mount.settled()

    top = os.open(guest, os.O_RDONLY)  # the way there is looked up each time

    def look() -> None:
        for name in ("a", "b", "sub", "sub/c", "sub/none", "none"):
            with contextlib.suppress(FileNotFoundError):
                os.stat(name, dir_fd=top)

    look()
    look()  # a folder that was only named is asked for once more
    assert requests(mount, look) == 0
    os.close(top)


def test_a_file_with_a_second_name_elsewhere_is_watched_itself(mount: ShareMount, host: Path) -> None:
    (host / "known").mkdir()
    (host / "unknown").mkdir()
    (host / "unknown/a").write_text("one")
    os.link(host / "unknown/a", host / "known/b")
    guest = mount.path(host) / "known/b"
    assert guest.read_text() == "one"
    assert guest.stat().st_size == 3
    with (host / "unknown/a").open("a") as file:
        file.write(" more")
    assert soon(lambda: guest.stat().st_size == 8)
    assert guest.read_text() == "one more"


# -- seeing ----------------------------------------------------------------------------------------


def test_every_kind_of_change_is_seen(mount: ShareMount, host: Path) -> None:
    guest = mount.path(host)
    assert not exists(guest / "a")
    (host / "a").write_text("one")
    assert soon(lambda: exists(guest / "a")), "though the guest knew that there was none"
    assert (guest / "a").read_text() == "one"
    (host / "a").write_text("two")
    assert soon(lambda: (guest / "a").read_text() == "two"), "of the same length"
    with (host / "a").open("a") as file:
        file.write(" and more")
    assert soon(lambda: (guest / "a").read_text() == "two and more")
    os.chmod(host / "a", 0o640)
    assert soon(lambda: (guest / "a").stat().st_mode & 0o777 == 0o640)
    (host / "new").write_text("replaced")
    os.replace(host / "new", host / "a")
    assert soon(lambda: (guest / "a").read_text() == "replaced")
    (host / "a").unlink()
    assert soon(lambda: not exists(guest / "a"))
    (host / "a").mkdir()
    assert soon(lambda: exists(guest / "a") and (guest / "a").is_dir())
    before = guest.stat().st_mtime_ns
    (host / "a/in").write_text("x")
    (host / "a").rename(host / "b")
    assert soon(lambda: exists(guest / "b/in") and not exists(guest / "a"))
    assert soon(lambda: guest.stat().st_mtime_ns != before)


def test_a_map_of_a_file_shows_what_the_host_writes(mount: ShareMount, host: Path) -> None:
    import mmap

    (host / "a").write_bytes(b"one")
    with (
        (mount.path(host) / "a").open("rb") as file,
        mmap.mmap(file.fileno(), 3, prot=mmap.PROT_READ) as view,
    ):
        assert view[:] == b"one"
        # In place: who looks at a map of a file that shrinks is ended.
        with (host / "a").open("r+b") as other:
            other.write(b"two")
        assert soon(lambda: view[:] == b"two")


def change_all(guest: Path) -> None:
    """Every kind of change, made in the guest."""
    for number in range(20):
        (guest / f"{number}").write_text("x" * number)
        os.chmod(guest / f"{number}", 0o600)
        os.rename(guest / f"{number}", guest / f"{number}.moved")
        (guest / f"folder{number}").mkdir()
        os.symlink("x", guest / f"link{number}")
        os.link(guest / f"{number}.moved", guest / f"second{number}")
        os.setxattr(guest / f"{number}.moved", "user.x", b"y")
        os.utime(guest / f"{number}.moved", (1, 1))
        os.truncate(guest / f"{number}.moved", 3)
        os.unlink(guest / f"second{number}")
        os.rmdir(guest / f"folder{number}")


def test_what_the_guest_does_is_no_news_to_it(mount: ShareMount, host: Path) -> None:
    os.listdir(mount.path(host))
    before = mount.settled()
    change_all(mount.path(host))
    after = mount.settled()
    assert (after["told"], after["events"]) == (before["told"], before["events"])


# -- events ----------------------------------------------------------------------------------------


@pytest.fixture
def events(mount: ShareMount, host: Path) -> Iterator[Events]:
    found = Events(mount.path(host))
    try:
        os.listdir(mount.path(host))
        yield found
    finally:
        found.close()


def test_a_new_file_and_its_end_are_told(host: Path, events: Events) -> None:
    (host / "a").write_text("x")
    assert events.until(("a", Kind.CREATED), ("a", Kind.CLOSED)), events.seen
    with (host / "a").open("a") as file:
        file.write("more")
        file.flush()
        assert events.until(("a", Kind.CREATED), ("a", Kind.MODIFIED)), events.seen
    os.chmod(host / "a", 0o600)
    assert events.until(("a", Kind.ATTRIBUTES)), events.seen
    (host / "a").unlink()
    assert events.until(("a", Kind.DELETED)), events.seen


@pytest.mark.parametrize("make", ("mkdir", "symlink", "mkfifo"))
def test_other_kinds_of_files_are_told(host: Path, events: Events, make: str) -> None:
    if make == "symlink":
        os.symlink("nowhere", host / "a")
    else:
        getattr(os, make)(host / "a")
    assert events.until(("a", Kind.CREATED)), events.seen
    if make == "mkdir":
        (host / "a").rmdir()
    else:
        (host / "a").unlink()
    assert events.until(("a", Kind.CREATED), ("a", Kind.DELETED)), events.seen


def test_the_new_content_is_there_when_it_is_told(mount: ShareMount, host: Path, events: Events) -> None:
    """Each round tells exactly one thing: what is left of the round before would be taken for this one."""
    guest = mount.path(host)
    (host / "a").write_text("0")
    assert events.until(("a", Kind.CLOSED))
    with (host / "a").open("r+b", buffering=0) as file:
        for number in range(1, 50):
            events.seen.clear()
            os.pwrite(file.fileno(), b"%d" % (number % 10), 0)
            assert events.until(("a", Kind.MODIFIED))
            assert (guest / "a").read_text() == f"{number % 10}"
    assert events.until(("a", Kind.CLOSED))
    for number in range(1, 50):
        events.seen.clear()
        (host / "a").write_text("x" * number)
        assert events.until(("a", Kind.CLOSED))
        assert (guest / "a").read_text() == "x" * number


def test_a_move_is_told_as_one(host: Path, events: Events) -> None:
    (host / "a").write_text("x")
    (host / "target").write_text("old")
    assert events.until(("a", Kind.CLOSED), ("target", Kind.CLOSED)), events.seen
    os.replace(host / "a", host / "target")
    assert events.until(("a", Kind.MOVED_FROM), ("target", Kind.MOVED_TO)), events.seen
    cookies = {change.cookie for change in events.seen if change.kind & (Kind.MOVED_FROM | Kind.MOVED_TO)}
    assert len(cookies) == 1
    (host / "folder").mkdir()
    (host / "folder/in").write_text("x")
    assert events.until(("folder", Kind.CREATED)), events.seen
    (host / "folder").rename(host / "moved")
    assert events.until(("folder", Kind.MOVED_FROM), ("moved", Kind.MOVED_TO)), events.seen


def test_editors_ways_of_saving_are_told(mount: ShareMount, host: Path, events: Events) -> None:
    """A new file over the old, and the old kept as a copy."""
    (host / "a").write_text("one")
    assert events.until(("a", Kind.CLOSED))
    os.rename(host / "a", host / "a~")
    (host / "a").write_text("two")
    (host / "a~").unlink()
    assert events.until(("a", Kind.MOVED_FROM), ("a~", Kind.MOVED_TO), ("a", Kind.CREATED)), events.seen
    assert events.until(("a~", Kind.DELETED)), events.seen
    assert soon(lambda: (mount.path(host) / "a").read_text() == "two")
    (host / ".a.new").write_text("three")
    os.replace(host / ".a.new", host / "a")
    assert events.until((".a.new", Kind.MOVED_FROM), ("a", Kind.MOVED_TO)), events.seen
    assert soon(lambda: (mount.path(host) / "a").read_text() == "three")


def test_a_watched_file_that_is_replaced_or_removed_says_so(mount: ShareMount, host: Path) -> None:
    for end in (lambda: os.replace(host / "new", host / "a"), lambda: (host / "a").unlink()):
        (host / "a").write_text("x")
        (host / "new").write_text("y")
        assert soon(lambda: exists(mount.path(host) / "a"))
        mount.settled()
        watcher = Inotify()
        with (mount.path(host) / "a").open() as file:
            folder = os.open(mount.path(host), os.O_RDONLY)
            watcher.watch(folder, b"a", folder=False)
            file.close()
        seen: list[Change] = []

        def told(watcher: Inotify = watcher, seen: list[Change] = seen) -> bool:
            seen += watcher.read(0.05)
            return any(change.kind & Kind.SELF_DELETED for change in seen)

        end()
        assert soon(told), seen
        watcher.close()
        os.close(folder)


def test_events_never_come_twice_nor_from_the_guest_itself(mount: ShareMount, host: Path) -> None:
    """What the guest does is told there once, by its own kernel; what the host does, once by us."""
    guest = mount.path(host)
    events = Events(guest)
    (guest / "own").write_text("x")
    (host / "others").write_text("x")
    assert events.until(("others", Kind.CLOSED))
    mount.settled()
    events.until(("never", Kind.CREATED)) if not events.seen else events.seen.extend(
        events._watcher.read(0.2)
    )
    for name in (b"own", b"others"):
        made = [change for change in events.seen if change.name == name and change.kind & Kind.CREATED]
        assert len(made) == 1, events.seen
    events.close()


def test_a_folder_that_leaves_its_share_cannot_be_changed_any_more(mount: ShareMount, host: Path) -> None:
    """Not even by who has it open, nor deep in it."""
    (host / "in/deep").mkdir(parents=True)
    outside = mount.folder / "outside"
    inside = os.open(mount.path(host) / "in/deep", os.O_RDONLY)
    os.close(os.open("own", os.O_CREAT | os.O_WRONLY, dir_fd=inside))
    (host / "in").rename(outside)
    mount.settled()
    with pytest.raises(OSError):
        os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=inside)
    os.close(inside)
    assert os.listdir(outside / "deep") == ["own"]
    outside.rename(host / "back")
    assert soon(lambda: os.listdir(mount.path(host) / "back/deep") == ["own"])
    (mount.path(host) / "back/deep/new").write_text("x")
    assert (host / "back/deep/new").read_text() == "x"


def test_what_takes_a_name_that_is_never_shared_has_gone(mount: ShareMount) -> None:
    root = next(iter(mount.roots))
    (root / "seen").mkdir()
    guest = mount.path(root / "seen")
    assert soon(lambda: exists(guest))
    mount.settled()
    (root / "seen").rename(root / "not-yet")
    assert soon(lambda: not exists(guest))
    (root / "not-yet").rename(root / "seen")
    assert soon(lambda: exists(guest))
    (root / "seen").rmdir()


def test_a_folder_that_was_away_can_be_worked_in_again(mount: ShareMount, host: Path) -> None:
    """Also if somebody has it open all the time, for whom it has gone."""
    (host / "in").mkdir()
    guest = mount.path(host)
    inside = os.open(guest / "in", os.O_RDONLY)
    for place in ("in", "elsewhere"):
        os.listdir(guest)
        outside = mount.folder / f"outside-{place}"
        (host / "in").rename(outside)
        assert soon(lambda: not exists(guest / "in"))
        mount.settled()
        outside.rename(host / place)
        assert soon(lambda place=place: exists(guest / place))
        mount.settled()
        (guest / place / "new").write_text("x")
        assert (host / place / "new").read_text() == "x"
        (host / place / "new").write_text("changed")
        assert soon(lambda place=place: (guest / place / "new").read_text() == "changed")
        (host / place / "new").unlink()
        if place != "in":
            break
    os.close(inside)
    assert soon(lambda: os.listdir(guest / "elsewhere") == [])
    (host / "elsewhere/last").write_text("x")
    assert soon(lambda: os.listdir(guest / "elsewhere") == ["last"])


# -- sleep and faults ------------------------------------------------------------------------------


def test_changes_while_the_server_was_away_are_seen_and_told(
    mount: ShareMount, host: Path, events: Events
) -> None:
    guest = mount.path(host)
    for name in ("changed", "removed", "replaced"):
        (host / name).write_text("one")
        assert events.until((name, Kind.CLOSED)), events.seen
    for name in ("changed", "removed", "replaced"):
        assert (guest / name).read_text() == "one"
    assert not exists(guest / "new")
    mount.settled()
    events.seen.clear()
    mount.stop_server()
    (host / "changed").write_text("two")
    (host / "removed").unlink()
    (host / "other").write_text("three")
    os.replace(host / "other", host / "replaced")
    (host / "new").write_text("four")
    mount.start_server(fresh=False)
    mount.connect()
    assert soon(lambda: (guest / "changed").read_text() == "two")
    assert soon(lambda: not exists(guest / "removed"))
    assert soon(lambda: (guest / "replaced").read_text() == "three")
    assert soon(lambda: exists(guest / "new"))
    assert (guest / "new").read_text() == "four"
    for name, kind in (
        ("changed", Kind.MODIFIED),
        ("removed", Kind.DELETED),
        ("replaced", Kind.CREATED),
        ("new", Kind.CREATED),
    ):
        assert events.until((name, kind)), (name, events.seen)


def test_a_killed_server_leaves_nothing_stale(mount: ShareMount, host: Path) -> None:
    guest = mount.path(host)
    (host / "a").write_text("one")
    assert (guest / "a").read_text() == "one"
    assert not exists(guest / "none")
    mount.kill_server()
    (host / "a").write_text("two")
    (host / "none").write_text("there")
    mount.start_server(fresh=False)
    mount.connect()
    mount.settled()
    assert soon(lambda: exists(guest / "none"))
    assert (guest / "a").read_text() == "two"


def test_a_share_that_is_taken_away_is_not_read_from_memory(mount: ShareMount, host: Path) -> None:
    (host / "a").write_text("secret by now")
    guest = mount.path(host) / "a"
    assert guest.read_text() == "secret by now"
    root, before = next(iter(mount.roots)), dict(mount.roots)

    def refused() -> bool:
        try:
            guest.read_text()
        except OSError:
            return True
        return False

    with guest.open() as file:
        del mount.roots[root]
        mount.configure()
        try:
            mount.settled()
            assert soon(refused)
            with pytest.raises(OSError):
                os.pread(file.fileno(), 100, 0)
        finally:
            mount.roots = before
            mount.configure()
    mount.settled()
    assert soon(lambda: exists(guest)) and guest.read_text() == "secret by now"
