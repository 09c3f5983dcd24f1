from __future__ import annotations

import json
from pathlib import Path

import pytest

from proa.images.keys import Keyring
from proa.images.signature import check, sign
from proa.model.errors import ProaError


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"format": 2}, "image-signature-wrong"),
        ({"algorithm": "none"}, "image-signature-wrong"),
        ({"signature": ""}, "image-signature-wrong"),
        ({"signature": "AAAA"}, "image-signature-wrong"),
        ({"signature": "%"}, "image-signature-wrong"),
        ({"signature": 5}, "image-signature-wrong"),
        ({"key": "0" * 32}, "image-signer-unknown"),
        ({"key": ""}, "image-signer-unknown"),
    ],
)
def test_a_signature_that_is_not_right_is_refused(
    tmp_path: Path, change: dict[str, object], code: str
) -> None:
    keys = Keyring(tmp_path)
    right = sign(b"manifest", keys)
    check(b"manifest", right, keys, "x")
    with pytest.raises(ProaError) as caught:
        check(b"manifest", json.dumps({**json.loads(right), **change}).encode(), keys, "x")
    assert caught.value.code == code


def test_it_covers_the_exact_bytes(tmp_path: Path) -> None:
    keys = Keyring(tmp_path)
    signed = sign(b"manifest", keys)
    for other in (b"manifest\n", b"Manifest", b""):
        with pytest.raises(ProaError):
            check(other, signed, keys, "x")
    for wrong in (b"", b"\xff", b"[]"):
        with pytest.raises(ProaError):
            check(b"manifest", wrong, keys, "x")


def test_the_key_of_another_installation_is_not_trusted(tmp_path: Path) -> None:
    mine, theirs = Keyring(tmp_path / "mine"), Keyring(tmp_path / "theirs")
    sign(b"", mine)
    with pytest.raises(ProaError) as caught:
        check(b"manifest", sign(b"manifest", theirs), mine, "x")
    assert caught.value.code == "image-signer-unknown"
