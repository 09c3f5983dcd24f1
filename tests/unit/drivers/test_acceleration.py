from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from proa.drivers.qemu import acceleration
from proa.drivers.qemu.acceleration import Remembered, candidates, recall

SAYS_YES = "#!/bin/sh\necho PROA-PROBE-OK\n"
SAYS_NO = "#!/bin/sh\necho 'no KVM for you' >&2\nexit 1\n"
HANGS = "#!/bin/sh\nexec sleep 60\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A QEMU, a kernel and where the answer is remembered."""
    qemu, kernel = tmp_path / "qemu", tmp_path / "kernel"
    qemu.write_text(SAYS_YES)
    qemu.chmod(0o755)
    kernel.write_text("kernel")
    return qemu, kernel, tmp_path / "acceleration.json"


async def choose(
    files: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str, list[str]]:
    monkeypatch.setattr(acceleration, "_kvm", lambda: "usable")
    monkeypatch.setattr(acceleration, "WATCHDOG", 1.0)
    qemu, kernel, cache = files
    said: list[str] = []
    info = await acceleration.choose(qemu, "7.2.1", kernel, kernel, cache, said.append)
    return info.accelerator, info.reason, said


async def test_a_boot_that_speaks_proves_it_and_is_remembered(
    files: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator, _, said = await choose(files, monkeypatch)
    assert accelerator == "kvm" and len(said) == 1
    accelerator, _, said = await choose(files, monkeypatch)
    assert accelerator == "kvm" and said == [], "it is not tried again"


@pytest.mark.parametrize(("program", "reason"), [(SAYS_NO, "no KVM for you"), (HANGS, "did not boot within")])
async def test_a_device_that_opens_and_boots_nothing_is_not_used(
    files: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    files[0].write_text(program)
    accelerator, why, _ = await choose(files, monkeypatch)
    assert accelerator == "tcg"
    assert reason in why


async def test_another_qemu_or_kernel_is_proved_anew(
    files: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    await choose(files, monkeypatch)
    files[0].write_text(SAYS_NO + "# another\n")
    accelerator, _, said = await choose(files, monkeypatch)
    assert (accelerator, len(said)) == ("tcg", 1)
    files[1].write_text("another kernel")
    assert len((await choose(files, monkeypatch))[2]) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", msgspec.json.encode(Remembered(99, "m", "kvm", ""))])
def test_a_broken_or_newer_memory_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert recall(tmp_path / "a.json", "m") is None


def test_each_system_has_its_own_accelerator() -> None:
    assert [candidates(system) for system in ("linux", "darwin", "win32", "plan9")] == [
        ("kvm",),
        ("hvf",),
        ("whpx",),
        (),
    ]
