from __future__ import annotations

from pathlib import Path

import pytest

from proa.images.versions import SeenVersions, Version
from proa.model.errors import ProaError


def test_numbers_are_compared_as_numbers() -> None:
    texts = ["1", "1.9", "1.10", "1.10.0", "2.1", "10"]
    assert sorted(texts, key=Version.parse) == texts


@pytest.mark.parametrize("text", ["", "1.", ".1", "1.x", "-1", "1.2.3.4.5", "1" * 19, "\u0661"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(ValueError, match="not a version"):
        Version.parse(text)


def test_channels_and_architectures_are_counted_apart(tmp_path: Path) -> None:
    seen = SeenVersions(tmp_path / "versions.json")
    seen.note("release", "amd64", "2.1")
    seen.note("release", "amd64", "1.1")
    for channel, architecture in (("local", "amd64"), ("release", "arm64")):
        seen.check(channel, architecture, "1.0")
    seen.check("release", "amd64", "2.1")
    with pytest.raises(ProaError) as caught:
        seen.check("release", "amd64", "2.0.9")
    assert caught.value.code == "image-older" and "--allow-older" in caught.value.hint


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff", b'{"format":9,"highest":{}}', b'{"format":1,"highest":{"a":"x"}}']
)
def test_a_memory_that_cannot_be_read_is_not_forgotten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "versions.json"
    path.write_bytes(content)
    with pytest.raises(ProaError) as caught:
        SeenVersions(path).check("release", "amd64", "1")
    assert caught.value.code == "versions-corrupt" and str(path) in caught.value.message
