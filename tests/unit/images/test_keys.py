from __future__ import annotations

import stat
from pathlib import Path

import pytest

from proa.images.keys import RELEASE_KEYS, Keyring, parse_public
from proa.images.signature import check, sign
from proa.model.errors import ProaError


def test_the_pair_is_made_once_and_is_private(tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "keys")
    assert keys.trusted() == {}
    first = sign(b"manifest", keys)
    assert sign(b"manifest", keys) == first
    assert stat.S_IMODE((tmp_path / "keys/local.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    (trusted,) = keys.trusted().values()
    assert (trusted.name, trusted.channel) == ("local", "local")


def test_what_others_may_read_signs_nothing(tmp_path: Path) -> None:
    keys = Keyring(tmp_path)
    sign(b"manifest", keys)
    (tmp_path / "local.key").chmod(0o644)
    with pytest.raises(ProaError) as caught:
        sign(b"manifest", keys)
    assert caught.value.code == "key-not-private"


@pytest.mark.parametrize("name", ["local.key", "local.pub", "trusted/ann.pub"])
@pytest.mark.parametrize(
    "content", [b"", b"ed25519 AAAA x", b"\xff", b"ed25519 !", b"proa-private-key 1 AAAA"]
)
def test_a_corrupt_key_names_its_file(tmp_path: Path, name: str, content: bytes) -> None:
    keys = Keyring(tmp_path)
    signed = sign(b"manifest", keys)
    (tmp_path / "trusted").mkdir()
    path = tmp_path / name
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ProaError) as caught:
        sign(b"manifest", keys) if name == "local.key" else check(b"manifest", signed, keys, "x")
    assert caught.value.code == "key-corrupt"
    assert str(path) in caught.value.message


def test_a_release_key_is_known_as_such(tmp_path: Path) -> None:
    maker = Keyring(tmp_path / "maker")
    signed = sign(b"manifest", maker)
    line = (tmp_path / "maker/local.pub").read_text()
    user = Keyring(tmp_path / "user", (line,))
    assert check(b"manifest", signed, user, "x").channel == "release"


def test_every_pinned_key_is_one() -> None:
    for line in RELEASE_KEYS:
        assert len(parse_public(line)) == 32
