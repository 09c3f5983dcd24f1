from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from proa.drivers.qemu import disks, qcow2
from proa.model.errors import ProaError


def _create(path: Path, *options: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "1G"], check=True)
    return path


@pytest.mark.parametrize(
    "options", [(), ("-o", "compat=0.10"), ("-o", "compression_type=zstd,extended_l2=on")]
)
def test_disks_that_stand_alone(tmp_path: Path, options: tuple[str, ...]) -> None:
    header = qcow2.read(_create(tmp_path / "d", *options))
    assert (header.size, qcow2.foreign(header)) == (1 << 30, "")


async def test_an_external_data_file_is_never_opened(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    disk = _create(tmp_path / "d", "-o", f"data_file={precious},data_file_raw=on")
    precious.unlink()
    precious.write_bytes(b"mine")
    with pytest.raises(ProaError) as caught:
        await disks.check(disk)
    assert caught.value.code == "disk-foreign" and "external data file" in caught.value.why
    assert precious.read_bytes() == b"mine"


async def test_an_encrypted_disk_is_not_ours(tmp_path: Path) -> None:
    data = bytearray(_create(tmp_path / "d").read_bytes())
    data[32:36] = (2).to_bytes(4, "big")
    (tmp_path / "d").write_bytes(data)
    with pytest.raises(ProaError) as caught:
        await disks.check(tmp_path / "d")
    assert caught.value.code == "disk-foreign"


async def test_a_device_is_no_disk_file() -> None:
    with pytest.raises(ProaError) as caught:
        await disks.check(Path("/dev/null"))
    assert caught.value.code == "disk-foreign"


@pytest.mark.parametrize(
    "data",
    [b"", b"QFI\xfb", bytes(200), b"QFI\xfb" + bytes(200), b"QFI\xfb\0\0\0\3" + bytes(70), b"\xff" * 200],
)
def test_what_is_no_header(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"qcow2|cut off"):
        qcow2.parse(data)


def test_features_that_nobody_knows_are_refused() -> None:
    assert qcow2.foreign(qcow2.Header(3, 1, False, False, 1 << 40))
    assert not qcow2.foreign(qcow2.Header(3, 1, False, False, qcow2.DIRTY | qcow2.CORRUPT))
