"""Names of links that lead where a host path does, and how answers that name them are shown."""

from __future__ import annotations

import json

import pytest

from proa.model.host_path import GUEST_ROOT
from proa.model.link_path import FOLDER, MOST_NAME, as_given, from_name, to_link

PATHS = ["/home/me/current", "/a b/ü/%2F", '/quote"and\\slash', "/x,y:z", "/\t\x7f"]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_comes_back(path: str) -> None:
    link = to_link(path)
    assert link is not None and link.startswith(f"{GUEST_ROOT}/{FOLDER}/")
    assert not set(link) & set(':,"\\\n '), "it stands in a bind, in options and in JSON as it is"
    name = link.rpartition("/")[2].encode()
    assert from_name(name) == path.encode()
    answer = json.dumps({"Source": link, "Binds": [f"{link}:/x:ro"], "Other": GUEST_ROOT}).encode()
    assert json.loads(as_given(answer)) == {"Source": path, "Binds": [f"{path}:/x:ro"], "Other": GUEST_ROOT}


def test_a_path_that_is_no_text_comes_back_as_well() -> None:
    link = to_link(b"/\xff".decode("utf-8", "surrogateescape"))
    assert link is not None and from_name(link.rpartition("/")[2].encode()) == b"/\xff"


def test_a_path_that_is_too_long_has_no_link() -> None:
    assert to_link("/" + "x" * (MOST_NAME - 3)) is not None
    assert to_link("/" + "x" * (MOST_NAME - 2)) is None


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"home",
        b"%2f",
        b"%2Fa%2",
        b"%2Fa%00",
        b"%2Fa b",
        b"%2F%61",
        b"%2F" + b"x" * MOST_NAME,
        b"%2F\xff",
    ],
)
def test_only_what_is_written_so_is_read(name: bytes) -> None:
    """One path has one name: nothing that a hostile guest makes up means anything."""
    assert from_name(name) is None
