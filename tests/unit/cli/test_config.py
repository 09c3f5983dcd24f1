from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.homes import Home


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with Home() as home:
        home.ok("create", "default", "--memory", "512MiB")
        yield home


def test_set_get_unset_and_list(home: Home) -> None:
    said = home.ok("config", "set", "registry.mirrors", "https://a.example", "https://b.example")
    assert "proa start" in said
    assert home.ok("config", "get", "registry.mirrors") == "https://a.example,https://b.example\n"
    listed = json.loads(home.ok("config", "list", "--json"))
    assert next(row for row in listed if row["key"] == "registry.mirrors")["given"] is True
    home.ok("config", "unset", "registry.mirrors")
    assert home.ok("config", "get", "registry.mirrors") == "\n"


def test_a_password_comes_by_standard_input_and_is_not_listed(home: Home) -> None:
    result = home.proa("config", "set", "proxy.http", "-", stdin="http://me:canary@proxy.example:1\n")
    assert result.status == 0, result
    assert "canary" not in home.ok("config", "list") + home.ok("config", "list", "--json") + result.out
    assert "canary" in home.ok("config", "list", "--reveal")
    assert home.ok("config", "get", "proxy.http") == "http://me:canary@proxy.example:1\n"
    assert "canary" not in home.last_words(1000)
    home.ok("config", "unset", "proxy.http")


def test_files_are_named_from_where_the_user_is(home: Home) -> None:
    result = home.proa("config", "set", "certificates", "here.pem")
    assert result.status == 2
    assert str(Path.cwd() / "here.pem") in result.err


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (("set", "memory", "much"), 2, "proa config set memory"),
        (("set", "memroy", "1GiB"), 2, "memory"),
        (("get", "nothing"), 2, "unknown-setting"),
        (("set", "memory"), 2, "--help"),
        (("get", "cpus", "--machine", "nobody"), 1, "machine-unknown"),
    ],
)
def test_wrong_use_is_said_in_three_lines(home: Home, argv: tuple[str, ...], status: int, said: str) -> None:
    result = home.proa("config", *argv)
    assert result.status == status
    assert said in result.err
    assert len(result.err.splitlines()) <= 3


@pytest.mark.parametrize("verb", ["list", "get", "set", "unset"])
def test_help_has_an_example(home: Home, verb: str) -> None:
    assert f"proa config {verb}" in home.ok("config", verb, "--help").split("Example", 1)[1]
    assert "Default: 2GiB." in home.ok("create", "--help")
