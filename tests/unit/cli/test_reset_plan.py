"""What a reset takes and what it leaves alone, decided from folders on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proa.cli.reset_plan import Plan, disk_usage, plan
from proa.system.paths import OURS, Places

USER = os.geteuid()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """An installation that Proa made, with a machine, an image, a log and a socket."""
    places = Places.current({"PROA_HOME": str(tmp_path / "home")})
    places.make()
    _fill(places)
    return places


def _fill(places: Places) -> None:
    for folder, name in ((places.machines / "work", "machine.toml"), (places.images / "a1", "manifest.json")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x" * 5000)
    (places.machines / "work/data.qcow2").write_bytes(b"x" * 100_000)
    (places.run / "work").mkdir(parents=True)
    (places.run / "work/docker.sock").touch()
    for file in (
        places.logs / "agent.log", places.logs / "agent.log.1", places.acceleration,
        places.keys / "local.key", places.keys / "local.pub",
    ):  # fmt: skip
        file.parent.mkdir(exist_ok=True)
        file.write_text("x")


def _paths(planned: Plan) -> set[Path]:
    return {item.path for item in planned.items}


def test_all_of_it_goes_named_and_sized(places: Places) -> None:
    planned = plan(places, keep_data=False, user=USER)
    assert _paths(planned) == {
        places.machines / "work", places.machines, places.images / "a1", places.images, places.keys,
        places.run, places.cache, places.logs,
    }  # fmt: skip
    assert not planned.kept
    assert planned.folders == (places.data,)
    machine = next(item for item in planned.items if item.path == places.machines / "work")
    assert machine.size >= 100_000 and "volumes" in machine.what
    top = sum(
        disk_usage(folder)
        for folder in (
            places.machines,
            places.images,
            places.keys,
            places.run,
            places.cache,
            places.logs,
        )
    )
    assert planned.size == top, "nothing is counted twice"


def test_data_is_kept_where_that_is_asked_for(places: Places) -> None:
    planned = plan(places, keep_data=True, user=USER)
    assert _paths(planned) == {places.run, places.cache, places.logs}
    assert planned.folders == ()


def test_folders_that_were_there_before_lose_only_what_is_provably_proas(tmp_path: Path) -> None:
    home = tmp_path / "projects"
    for name in ("machines/mine", "images", "keys/trusted", "cache/downloads", "logs", "run"):
        (home / name).mkdir(parents=True)
    for name in (
        "images/holiday.jpg",
        "cache/other",
        "keys/trusted/colleague.pub",
        "logs/other.log",
        "run/other.pid",
        "machines/mine/notes",
    ):
        (home / name).write_text("precious")
    places = Places.current({"PROA_HOME": str(home)})
    places.make()
    _fill(places)
    planned = plan(places, keep_data=False, user=USER)
    assert _paths(planned) == {
        places.machines / "work", places.images / "a1", places.run / "work", places.acceleration,
        places.logs / "agent.log", places.logs / "agent.log.1",
        places.keys / "local.key", places.keys / "local.pub", places.cache / "downloads",
    }  # fmt: skip
    assert {kept.path.name for kept in planned.kept} == {
        "mine", "holiday.jpg", "other", "other.log", "other.pid", "trusted",
    }  # fmt: skip


def test_links_are_never_followed(places: Places, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    (outside / "inner/machine.toml").write_text("x" * 100_000)
    (outside / OURS).write_text("")
    (places.machines / "linked").symlink_to(outside / "inner")
    os.rename(places.cache, tmp_path / "moved")  # noqa: PTH104
    places.cache.symlink_to(outside)
    planned = plan(places, keep_data=False, user=USER)
    assert places.machines / "linked" not in _paths(planned) and places.cache not in _paths(planned)
    assert [kept.path for kept in planned.kept] == [places.cache]
    assert planned.size < disk_usage(outside) + 200_000


def test_another_users_folder_stays(places: Places) -> None:
    planned = plan(places, keep_data=False, user=USER + 1)
    assert not planned.items
    assert len(planned.kept) == 6 and "another user" in planned.kept[0].why


def test_nothing_there_is_nothing_to_do(tmp_path: Path) -> None:
    planned = plan(Places.current({"PROA_HOME": str(tmp_path / "none")}), keep_data=False, user=USER)
    assert (planned.items, planned.kept, planned.size) == ((), (), 0)
