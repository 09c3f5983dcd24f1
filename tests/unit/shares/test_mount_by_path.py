"""Where the system tells only at which paths something may have changed: nothing stale, and events, too.

What others hold the mount to with inotify holds here as well; only what is told where several changes are one
is of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proa.system.watching import NAMES, Kind
from tests.support.mount_events import Events
from tests.support.share_mounts import ShareMount, exists, soon
from tests.unit.shares.test_coherence import (  # noqa: F401
    change_all,
    events,
    test_a_folder_that_leaves_its_share_cannot_be_changed_any_more,
    test_a_folder_that_was_away_can_be_worked_in_again,
    test_a_killed_server_leaves_nothing_stale,
    test_a_map_of_a_file_shows_what_the_host_writes,
    test_a_new_file_and_its_end_are_told,
    test_a_share_that_is_taken_away_is_not_read_from_memory,
    test_changes_while_the_server_was_away_are_seen_and_told,
    test_events_never_come_twice_nor_from_the_guest_itself,
    test_every_kind_of_change_is_seen,
    test_other_kinds_of_files_are_told,
    test_what_was_looked_at_is_not_asked_for_again,
)
from tests.unit.shares.test_model import (  # noqa: F401
    test_nothing_stale_is_left_when_both_sides_change_at_once,
    test_the_guest_never_keeps_what_the_host_has_changed,
)

pytestmark = [pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShareMount]:
    folder = tmp_path_factory.mktemp("shares")
    root = folder / "root"
    root.mkdir()
    with ShareMount(folder, {root: True}, server=("-m", "tests.support.by_path")) as found:
        yield found


def test_what_the_guest_does_is_told_to_nobody(mount: ShareMount, host: Path) -> None:
    os.listdir(mount.path(host))
    before = mount.settled()
    change_all(mount.path(host))
    assert mount.settled()["events"] == before["events"]


def test_the_new_content_is_there_when_it_is_told(mount: ShareMount, host: Path, events: Events) -> None:  # noqa: F811
    """Of one write: to empty a file first, as most who write do, is a change that is told by itself."""
    guest = mount.path(host)
    (host / "a").touch()
    for number in range(1, 20):
        mount.settled()
        events.forget()
        with (host / "a").open("a") as file:
            file.write("x")
        assert events.until(("a", Kind.MODIFIED), ("a", Kind.CLOSED)), events.seen
        assert (guest / "a").read_text() == "x" * number


def test_a_move_is_told_as_one(mount: ShareMount, host: Path, events: Events) -> None:  # noqa: F811
    for name in ("a", "target"):
        (host / name).write_text(name)
        assert events.until((name, Kind.CLOSED)), events.seen
    mount.settled()
    os.replace(host / "a", host / "target")
    assert events.until(("a", Kind.MOVED_FROM), ("target", Kind.MOVED_TO)), events.seen
    (host / "folder").mkdir()
    assert events.until(("folder", Kind.CREATED)), events.seen
    (host / "folder").rename(host / "moved")
    assert events.until(("folder", Kind.MOVED_FROM), ("moved", Kind.MOVED_TO)), events.seen
    moves = [change.cookie for change in events.seen if change.kind & (Kind.MOVED_FROM | Kind.MOVED_TO)]
    assert len(moves) == 4 and len(set(moves)) == 2


def test_a_file_saved_over_another_is_told_with_its_content(
    mount: ShareMount,
    host: Path,
    events: Events,  # noqa: F811
) -> None:
    guest = mount.path(host)
    (host / "a").write_text("one")
    assert events.until(("a", Kind.CLOSED)), events.seen
    assert (guest / "a").read_text() == "one"
    events.seen.clear()
    os.rename(host / "a", host / "a~")
    (host / "a").write_text("two")
    (host / "a~").unlink()
    assert events.until(("a", Kind.CREATED), ("a", Kind.CLOSED)), events.seen
    assert (guest / "a").read_text() == "two"
    mount.settled()
    (host / ".a.new").write_text("three")
    os.replace(host / ".a.new", host / "a")
    assert soon(lambda: (guest / "a").read_text() == "three")
    assert events.until(("a", NAMES)), events.seen


def test_a_second_name_in_a_folder_that_the_guest_does_not_know(mount: ShareMount, host: Path) -> None:
    """What is written by it is seen by the first."""
    (host / "unknown").mkdir()
    (host / "a").write_text("one")
    guest = mount.path(host) / "a"
    assert guest.read_text() == "one"
    assert guest.stat().st_nlink == 1
    mount.settled()
    os.link(host / "a", host / "unknown/b")
    assert soon(lambda: guest.stat().st_nlink == 2)
    with (host / "unknown/b").open("a") as file:
        file.write(" more")
    assert soon(lambda: guest.read_text() == "one more")


def test_a_folder_that_goes_and_comes_back_changed(mount: ShareMount, host: Path) -> None:
    """Into a folder that the guest does not know: no path that it knows tells what happens there."""
    (host / "unknown").mkdir()
    (host / "in/deep").mkdir(parents=True)
    (host / "in/deep/a").write_text("one")
    guest = mount.path(host)
    assert (guest / "in/deep/a").read_text() == "one"
    assert not exists(guest / "in/deep/new")
    mount.settled()
    (host / "in").rename(host / "unknown/in")
    (host / "unknown/in/deep/a").write_text("two two")
    (host / "unknown/in").rename(host / "in")
    (host / "in/deep/new").write_text("x")
    mount.settled()
    assert (guest / "in/deep/a").read_text() == "two two"
    assert exists(guest / "in/deep/new")
    (host / "in/deep/a").write_text("three")
    assert soon(lambda: (guest / "in/deep/a").read_text() == "three")
