"""Many changes at once on the host: who watches is told of all of theirs, and not behind what is nobody's."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from pathlib import Path

import pytest

from proa.system.watching import Kind
from tests.support.mount_events import Events
from tests.support.share_mounts import ShareMount

pytestmark = [pytest.mark.timeout(120)]
STORM = 1500  # files, each of which would be some turns between the server and the mount


def test_what_nobody_watches_is_seen_but_not_repeated(mount: ShareMount, host: Path) -> None:
    guest = mount.path(host)
    for name in ("watched", "noisy"):
        (host / name).mkdir()
        assert os.listdir(guest / name) == []
    before = mount.settled()["events"]
    with contextlib.closing(Events(guest / "watched")) as events:
        for number in range(STORM):
            (host / f"noisy/{number}").write_text("x")
        (host / "watched/new").write_text("x")
        assert events.until(("new", Kind.CREATED), ("new", Kind.MODIFIED))
        assert mount.settled()["events"] - before < STORM / 2
    assert len(os.listdir(guest / "noisy")) == STORM
    assert all((guest / f"noisy/{number}").read_text() == "x" for number in range(0, STORM, 50))


def test_all_that_is_watched_is_told_of_in_a_storm(mount: ShareMount, host: Path) -> None:
    """From when somebody watches it: folders and files, found by several ways of changing them."""
    chance = random.Random(5)
    guest = mount.path(host)
    folders = [f"folder{number}" for number in range(12)]
    for name in (*folders, "noisy"):
        (host / name).mkdir()
        (host / name / "file").write_text("x")
        (host / name / "goes").write_text("x")
        assert (guest / name / "file").read_text() == "x"
    over = threading.Event()

    def storm() -> None:
        for number in range(4 * STORM):
            (host / f"noisy/{number}").write_text("x")
            if over.is_set():
                break

    noise = threading.Thread(target=storm)
    noise.start()
    try:
        with contextlib.ExitStack() as stack:
            watched: list[Events] = []
            for name in folders:
                for number in range(chance.randrange(3)):
                    (host / name / f"early{number}").write_text("x")
                events = stack.enter_context(contextlib.closing(Events(guest / name)))
                watched.append(events)
                (host / name / "late").write_text("x")
                (host / name / "file").write_text("more")
                (host / name / "goes").rename(host / name / "went")
                (host / name / "late").unlink()
                (host / name / "folder").mkdir()
            for name, events in zip(folders, watched, strict=True):
                assert events.until(("file", Kind.MODIFIED)), name
                assert events.until(("goes", Kind.MOVED_FROM), ("went", Kind.MOVED_TO)), name
                assert events.until(("folder", Kind.CREATED)), name
    finally:
        over.set()
        noise.join()
    assert mount.settled()["quiet"]
