"""The verb `image` as a user runs it, with images that nothing boots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.homes import Home
from tests.support.images import make_image


@pytest.fixture
def home() -> Iterator[Home]:
    with Home() as home:
        yield home


def test_every_part_has_help_with_an_example(home: Home) -> None:
    told = home.ok("image", "--help")
    for part in ("list", "build", "fetch", "import", "verify", "remove"):
        assert f"  {part} " in told
        assert f"Example:  proa image {part}" in home.ok("image", part, "--help")


def test_from_import_to_removal(home: Home, tmp_path: Path) -> None:
    assert "no images yet" in home.ok("image", "list")
    home.import_image(make_image(tmp_path / "one", "one1", "1.5"))
    home.import_image(make_image(tmp_path / "two", "two2", "1.6"))
    newest, old = json.loads(home.ok("image", "list", "--json"))
    assert (newest["id"], old["id"], newest["problem"]) == ("two2", "one1", None)
    assert newest["source_offer"].endswith("two2/source-offer.txt") and newest["sources"]
    assert "two2   1.6" in home.ok("image", "list")
    assert json.loads(home.ok("image", "verify", "--json"))["signer"] == "local"
    assert "one1 is whole" in home.ok("image", "verify", "one1")

    refused = home.proa("image", "import", str(tmp_path / "one"))
    assert (refused.status, "[image-unsigned]" in refused.err) == (1, True)
    home.ok("create", "work", "--memory", "1GiB", "--image", "one1")
    refused = home.proa("image", "remove", "one1")
    assert "[image-in-use]" in refused.err and "work" in refused.err and len(refused.err.splitlines()) == 3
    home.ok("delete", "work", "--yes")
    assert "one1" in home.ok("image", "remove", "--unused")
    assert "two2" in home.ok("image", "remove", "two2")

    for wrong in (["remove"], ["remove", "x", "--unused"], ["fetch", "http://example.com/x"], ["fetch"]):
        assert home.proa("image", *wrong).status == 2


def test_an_altered_image_is_named(home: Home, tmp_path: Path) -> None:
    home.import_image(make_image(tmp_path / "one", "one1"))
    (home.folder / "images/one1/kernel").write_bytes(b"evil")
    result = home.proa("image", "verify", "--json")
    assert (result.status, result.out, "[image-altered]" in result.err) == (1, "", True)
