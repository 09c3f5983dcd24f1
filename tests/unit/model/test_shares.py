"""Which folders containers may have, by name alone, and what they are called in the guest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proa.model import shares
from proa.model.host_path import GUEST_ROOT, BadPath, System, from_guest, normal, to_guest
from proa.model.shares import Allowed, Policy, Refused, Share

LINUX, MACOS, WINDOWS = System.LINUX, System.MACOS, System.WINDOWS


def policy(*entries: str, never: tuple[str, ...] = shares.NEVER, system: System = LINUX) -> Policy:
    home = "C:\\Users\\me" if system is WINDOWS else "/home/me"
    return Policy(shares.read(entries, system), never, home, system)


@pytest.mark.parametrize(
    ("path", "allowed"),
    (
        ("/home/me", True),
        ("/home/me/", True),
        ("/home/me/a/../b", True),
        ("/home/me/../me/x", True),
        ("/home/meg", False),
        ("/home", False),
        ("/", False),
        ("/home/me/../you", False),
        ("//home//me", True),
        ("home/me", False),
        ("/home/me/.ssh", False),
        ("/home/me/.ssh/id_ed25519", False),
        ("/home/me/.sshx", True),
        ("/home/me/x/../.ssh", False),
        ("/home/me/.config", True),
        ("/home/me/.config/gcloud", False),
        ("/home/me/\0", False),
    ),
)
def test_a_path_is_decided_name_by_name(path: str, allowed: bool) -> None:
    assert isinstance(policy("~").decide(path), Allowed) is allowed


def test_a_secret_is_shared_where_it_is_named() -> None:
    assert isinstance(policy("~", "~/.ssh").decide("/home/me/.ssh/key"), Allowed)
    assert isinstance(policy("~", "~/.ssh").decide("/home/me/.aws"), Refused)
    assert "/home/me/.ssh" in policy("~").hidden_below("/home/me")
    assert "/home/me/.ssh" not in policy("~", "~/.ssh").hidden_below("/home/me")


def test_the_longest_share_decides() -> None:
    found = policy("~", "~/data:ro").decide("/home/me/data/x")
    assert isinstance(found, Allowed)
    assert not found.share.writable


def test_a_refusal_names_the_command_that_allows_it() -> None:
    found = policy("~").decide("/a folder/x")
    assert isinstance(found, Refused)
    assert "proa share add '/a folder/x'" in found.hint


def test_links_count_by_where_they_lead() -> None:
    real = {"/home/me": "/disk/me", "/home/me/.ssh": "/keys"}
    found = policy("~", "/keys-not").resolved(lambda path: real.get(path, path))
    assert isinstance(found.decide("/disk/me/x"), Allowed)
    assert isinstance(found.decide("/keys"), Refused)


@pytest.mark.parametrize("entry", ("relative", "./x", "a\nb", "", "~you/x"))
def test_an_entry_must_be_a_whole_path(entry: str) -> None:
    with pytest.raises(ValueError, match=r"path|text"):
        Share.parse(entry)


@pytest.mark.parametrize("entry", ("/x", "/x:ro", "~/x", "C:\\x", "/x:ro:rw"))
def test_an_entry_is_shown_as_it_was(entry: str) -> None:
    assert Share.parse(str(Share.parse(entry))) == Share.parse(entry)


@pytest.mark.parametrize(
    "path",
    ("C:\\Users\\me", "c:/Users/me", "/c/Users/me", "/mnt/c/Users/me", "/host_mnt/c/Users/me",
     "/run/desktop/mnt/host/c/Users/me", "//c/Users/me", "C:\\Users\\.\\x\\..\\me\\"),
)  # fmt: skip
def test_a_drive_in_all_its_forms(path: str) -> None:
    assert normal(path, WINDOWS) == "C:\\Users\\me"
    assert to_guest(path, WINDOWS) == GUEST_ROOT + "/c/Users/me"
    assert from_guest(GUEST_ROOT + "/c/Users/me", WINDOWS) == "C:\\Users\\me"
    assert isinstance(policy("~", system=WINDOWS).decide(path.replace("me", "ME")), Allowed)


@pytest.mark.parametrize("path", ("\\\\server\\share", "\\\\.\\pipe\\x", "x", "C:x", "C:\\nul", "C:\\a|b"))
def test_what_is_no_folder_of_a_drive(path: str) -> None:
    with pytest.raises(BadPath):
        normal(path, WINDOWS)


def test_case_does_not_get_past_where_it_does_not_count() -> None:
    assert isinstance(policy("~", system=MACOS).decide("/HOME/me/.SSH/key"), Refused)
    assert isinstance(policy("~", system=LINUX).decide("/HOME/me"), Refused)


@given(
    st.lists(
        st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1), max_size=5
    )
)
def test_a_path_comes_back_from_the_guest(names: list[str]) -> None:
    whole = normal("/" + "/".join(names), LINUX)
    there = to_guest(whole, LINUX)
    assert there == GUEST_ROOT or there.startswith(GUEST_ROOT + "/")
    assert from_guest(there, LINUX) == whole
