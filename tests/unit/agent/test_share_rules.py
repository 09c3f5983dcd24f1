"""Where the guest has what is shared of this computer, and what it is told of the rest."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pytest

from proa.agent.share_rules import ShareRules
from proa.engine.mounts import HostMount
from proa.engine.proxy import NotShared
from proa.model.host_path import GUEST_ROOT, BadPath
from proa.model.link_path import FOLDER
from proa.model.machine import MachineConfig
from proa.system.paths import Places


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShareRules:
    """A user's home is shared, and one folder that is reached over a link as well."""
    for name in ("me/project", "me/.ssh", "elsewhere", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("PROA_HOME", str(tmp_path / "h"))
    folders = ["~", str(tmp_path / "link"), str(tmp_path / "gone")]
    config = MachineConfig(name="default", values={"shares.folders": folders})
    return ShareRules(Places.current(), lambda: config)


def test_shares_are_seen_where_they_are_by_each_of_their_names(rules: ShareRules, tmp_path: Path) -> None:
    view = rules.view(str(tmp_path / "me/project"), str(tmp_path / "me"))
    assert (view.cwd, view.home, view.note) == (str(tmp_path / "me/project"), str(tmp_path / "me"), "")
    assert set(view.folders) == {
        (str(tmp_path / "me"), str(tmp_path / "me")),
        (str(tmp_path / "elsewhere"), str(tmp_path / "link")),
        (str(tmp_path / "elsewhere"), str(tmp_path / "elsewhere")),
    }


@pytest.mark.parametrize("folder", ["other", "me/.ssh"])
def test_a_folder_that_is_not_shared_is_said_with_the_way_out(
    rules: ShareRules, tmp_path: Path, folder: str
) -> None:
    view = rules.view(str(tmp_path / folder), str(tmp_path / "me"))
    assert view.cwd == ""
    assert str(tmp_path / folder) in view.note and "proa share add" in view.note


def test_a_home_that_is_no_path_is_refused(rules: ShareRules, tmp_path: Path) -> None:
    with pytest.raises(BadPath):
        rules.view(str(tmp_path / "me"), "not/whole")


def target(rules: ShareRules, path: Path | str) -> str:
    """The host's name of where the guest has it."""
    found = rules.targets([HostMount(str(path), creates=False)])[str(path)].path
    assert found.startswith(GUEST_ROOT + "/")
    return found[len(GUEST_ROOT) :]


def test_a_folder_is_where_it_is(rules: ShareRules, tmp_path: Path) -> None:
    assert target(rules, tmp_path / "me/project") == str(tmp_path / "me/project")
    assert target(rules, f"{tmp_path}/me//./project/") == str(tmp_path / "me/project")


def test_a_link_that_the_guest_follows_itself_keeps_its_name(rules: ShareRules, tmp_path: Path) -> None:
    """So it is shown as it was given, and where it leads may change with the next start of the container."""
    me = tmp_path / "me"
    (me / "releases/5").mkdir(parents=True)
    (me / "current").symlink_to("releases/5")
    (me / "project/up").symlink_to("../current")
    assert target(rules, me / "current") == str(me / "current")
    assert target(rules, me / "project/up") == str(me / "project/up")


def test_a_link_that_the_guest_cannot_follow_keeps_its_name_too(rules: ShareRules, tmp_path: Path) -> None:
    me = tmp_path / "me"
    (me / "project/deep").mkdir()
    (me / "absolute").symlink_to(me / "project")
    (me / "second").symlink_to("absolute")
    (tmp_path / "beside").symlink_to("me/project")  # above all shares: the guest does not see it
    for given in (me / "absolute", me / "second/deep", tmp_path / "beside", f"{me}//./absolute/"):
        assert target(rules, given) == f"/{FOLDER}/{quote(os.path.normpath(given), safe='')}"


def test_any_other_link_is_followed_here(
    rules: ShareRules, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    me = tmp_path / "me"
    long = me / "/".join(["a" * 200] * 5)
    long.mkdir(parents=True)
    (long / "absolute").symlink_to(me / "project")
    assert target(rules, long / "absolute") == str(me / "project"), "its name would be too long"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "inside").symlink_to(me / "project")
    (me / "around").symlink_to(elsewhere / "inside")
    assert target(rules, me / "around") == str(me / "project"), "on the way it leaves all shares"
    (me / "deep").mkdir()
    (me / "aside").symlink_to("project")
    assert target(rules, f"{me}/aside/../deep") == str(me / "deep")


def test_a_link_out_of_all_shares_is_refused_and_one_to_keys_too(rules: ShareRules, tmp_path: Path) -> None:
    for name, leads in (("out", "../other"), ("keys", ".ssh"), ("loop", "loop")):
        (tmp_path / "me" / name).symlink_to(leads)
        with pytest.raises(NotShared):
            target(rules, tmp_path / "me" / name)
