"""Where the guest has what is shared of this computer, and what it is told of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from proa.agent.share_rules import ShareRules
from proa.engine.mounts import HostMount
from proa.engine.proxy import NotShared
from proa.model.host_path import GUEST_ROOT, BadPath
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


def test_any_other_link_is_followed_here(rules: ShareRules, tmp_path: Path) -> None:
    me = tmp_path / "me"
    (me / "absolute").symlink_to(me / "project")
    (me / "second").symlink_to("absolute")
    (tmp_path / "beside").symlink_to("me/project")  # no share: the guest does not see it
    for link in (me / "absolute", me / "second", tmp_path / "beside"):
        assert target(rules, link) == str(me / "project")
    (me / "deep").mkdir()
    (me / "aside").symlink_to("project")
    assert target(rules, f"{me}/aside/../deep") == str(me / "deep")


def test_a_link_out_of_all_shares_is_refused_and_one_to_keys_too(rules: ShareRules, tmp_path: Path) -> None:
    for name, leads in (("out", "../other"), ("keys", ".ssh"), ("loop", "loop")):
        (tmp_path / "me" / name).symlink_to(leads)
        with pytest.raises(NotShared):
            target(rules, tmp_path / "me" / name)
