from __future__ import annotations

from pathlib import Path

import pytest

from proa.machine import authorities
from proa.model.errors import ProaError
from proa.model.machine import MachineConfig
from proa.system.certificates import read_pem
from tests.support.certificates import make_authority


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authority")
    make_authority(folder, "10.0.2.2")
    return folder


def test_certificates_are_taken_and_keys_are_left(folder: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text(
        (folder / "authority.key").read_text()
        + (folder / "authority.pem").read_text()
        + (folder / "server.pem").read_text()
    )
    found = read_pem(both)
    assert len(found) == 2
    assert not any("PRIVATE" in block for block in found)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_what_is_no_certificate_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.pem"
    path.write_bytes(content)
    with pytest.raises(ProaError) as caught:
        read_pem(path)
    assert caught.value.code == "bad-certificate" and str(path) in caught.value.message


def test_a_key_alone_and_a_missing_file_are_refused(folder: Path) -> None:
    for name in ("authority.key", "nowhere.pem"):
        with pytest.raises(ProaError) as caught:
            read_pem(folder / name)
        assert caught.value.code == "bad-certificate"


def test_what_the_host_added_comes_along_unless_it_is_not_wanted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "README"
    broken.write_text("no certificate")
    monkeypatch.setattr(authorities, "added_on_host", lambda: (broken, folder / "server.pem"))
    named = {"certificates": [str(folder / "authority.pem")]}
    assert authorities.collect(MachineConfig(name="x", values=named)).count("BEGIN") == 2
    named["host_certificates"] = False  # type: ignore[assignment]
    assert authorities.collect(MachineConfig(name="x", values=named)).count("BEGIN") == 1
