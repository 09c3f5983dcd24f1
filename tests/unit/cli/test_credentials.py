"""The user's logins for the guest's Docker CLI: those of helpers and of config.json, as Docker has them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from proa.cli.credentials import NOT_FOUND, Credentials, for_guest

# A helper that keeps its logins in a file beside it.
HELPER = """#!/usr/bin/python3
import json, pathlib, sys
place = pathlib.Path(__file__).with_suffix(".json")
logins = json.loads(place.read_text()) if place.exists() else {}
action, text = sys.argv[1], sys.stdin.read()
if action == "store":
    login = json.loads(text)
    logins[login["ServerURL"]] = login
elif action == "erase":
    logins.pop(text.strip(), None)
elif action == "list":
    print(json.dumps({key: login["Username"] for key, login in logins.items()}))
elif text.strip() in logins:
    print(json.dumps(logins[text.strip()]))
else:
    print("credentials not found in native keychain")
    sys.exit(1)
place.write_text(json.dumps(logins))
"""


def packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "docker"
        self.bin = folder / "bin"
        self.folder.mkdir()
        self.bin.mkdir()
        self.credentials = self.asked_by(may_change=True)

    def asked_by(self, *, may_change: bool) -> Credentials:
        return Credentials(self.folder, {"PATH": str(self.bin)}, may_change=may_change)

    def config(self, **content: object) -> None:
        (self.folder / "config.json").write_text(json.dumps(content))

    def helper(self, name: str, text: str = HELPER) -> None:
        program = self.bin / f"docker-credential-{name}"
        program.write_text(text)
        program.chmod(0o755)

    @property
    def kept(self) -> dict[str, object]:
        content: dict[str, object] = json.loads((self.folder / "config.json").read_text())
        return content

    def login(self, server: str) -> tuple[str, str] | None:
        status, output = self.credentials.answer("get", server)
        if status:
            assert output.strip() == NOT_FOUND
            return None
        told = json.loads(output)
        return told["Username"], told["Secret"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def store(world: World, server: str, user: str, secret: str) -> tuple[int, str]:
    login = {"ServerURL": server, "Username": user, "Secret": secret}
    return world.credentials.answer("store", json.dumps(login))


def test_without_a_config_there_are_none(world: World) -> None:
    assert world.login("registry.example") is None
    assert world.credentials.answer("list", "") == (0, "{}")


def test_logins_of_the_config_are_found_by_their_server(world: World) -> None:
    world.config(
        auths={
            "https://index.docker.io/v1/": {"auth": packed("me:s3:cret")},
            "registry.example": {"identitytoken": "tok"},
            "https://old.example/v1/": {"auth": packed("old:x\0\0")},
            "broken.example": {"auth": "*"},
            "empty.example": {},
        }
    )
    assert world.login("https://index.docker.io/v1/") == ("me", "s3:cret")
    assert world.login("registry.example") == ("<token>", "tok")
    assert world.login("old.example") == ("old", "x")
    assert world.login("broken.example") is None and world.login("empty.example") is None
    status, output = world.credentials.answer("list", "")
    assert (status, json.loads(output)) == (
        0,
        {
            "https://index.docker.io/v1/": "me",
            "registry.example": "<token>",
            "https://old.example/v1/": "old",
        },
    )


def test_a_login_without_a_helper_goes_to_the_config_and_the_rest_of_it_stays(world: World) -> None:
    world.config(psFormat="x", auths={"a.example": {"auth": packed("a:1")}})
    assert store(world, "b.example", "b", "2:3") == (0, "")
    assert store(world, "c.example", "<token>", "tok") == (0, "")
    assert world.login("b.example") == ("b", "2:3")
    assert world.kept["psFormat"] == "x"
    assert world.kept["auths"] == {
        "a.example": {"auth": packed("a:1")},
        "b.example": {"auth": packed("b:2:3")},
        "c.example": {"identitytoken": "tok"},
    }
    assert world.credentials.answer("erase", "b.example") == (0, "")
    assert world.credentials.answer("erase", "b.example") == (0, ""), "twice does no harm"
    assert world.login("b.example") is None and world.login("a.example") == ("a", "1")


def test_the_users_helpers_are_asked(world: World) -> None:
    world.helper("keychain")
    world.helper("cloud")
    world.config(credsStore="keychain", credHelpers={"cloud.example": "cloud"})
    assert store(world, "a.example", "a", "1")[0] == 0
    assert store(world, "cloud.example", "robot", "2")[0] == 0
    assert world.login("a.example") == ("a", "1")
    assert world.login("cloud.example") == ("robot", "2")
    assert "cloud.example" not in (world.bin / "docker-credential-keychain.json").read_text()
    status, output = world.credentials.answer("list", "")
    assert (status, json.loads(output)) == (0, {"a.example": "a", "cloud.example": ""})
    assert world.credentials.answer("erase", "a.example")[0] == 0
    assert world.login("a.example") is None
    assert "auths" not in world.kept, "what a helper keeps is not in the config"


def test_a_helper_that_is_missing_fails_or_speaks_nonsense_is_said(world: World) -> None:
    world.config(credsStore="gone")
    status, output = world.credentials.answer("get", "a.example")
    assert status == 1 and "docker-credential-gone is not on the PATH" in output
    world.helper("gone", "#!/bin/sh\necho no access to the keychain\nexit 3\n")
    assert world.credentials.answer("get", "a.example") == (1, "no access to the keychain\n")
    assert world.credentials.answer("list", "") == (0, "{}")
    world.helper("gone", "#!/bin/sh\necho nonsense\n")
    assert world.credentials.answer("list", "")[0] == 1


def test_no_other_command_than_a_login_changes_them(world: World) -> None:
    world.config(auths={"a.example": {"auth": packed("a:1")}})
    before = world.kept
    pull = world.asked_by(may_change=False)
    assert json.loads(pull.answer("get", "a.example")[1])["Secret"] == "1"
    for action, text in (("erase", "a.example"), ("store", '{"ServerURL": "b", "Username": "b"}')):
        assert pull.answer(action, text)[0] == 1
    assert world.kept == before


@pytest.mark.parametrize(
    ("action", "text"), [("shell", "rm"), ("store", "no json"), ("store", "[1]"), ("", "")]
)
def test_bad_questions_are_refused(world: World, action: str, text: str) -> None:
    status, output = world.credentials.answer(action, text)
    assert status == 1 and output
    assert not (world.folder / "config.json").exists()


def test_a_config_that_cannot_be_read_is_left_as_it_is(world: World) -> None:
    (world.folder / "config.json").write_text("{ broken")
    assert store(world, "a.example", "a", "1")[0] == 1
    assert (world.folder / "config.json").read_text() == "{ broken"


def test_the_guest_is_told_no_login_and_nothing_that_means_something_here_alone() -> None:
    settings = {
        "auths": {"a": {"auth": "x"}},
        "credsStore": "k",
        "credHelpers": {},
        "currentContext": "proa",
        "cliPluginsExtraDirs": ["/opt"],
        "psFormat": "x",
        "proxies": {"default": {"httpProxy": "http://p"}},
    }
    assert for_guest(settings) == {"psFormat": "x", "proxies": {"default": {"httpProxy": "http://p"}}}
