from __future__ import annotations

from pathlib import Path

import pytest

from proa.images.builder import build, find_builder
from proa.model.errors import ProaError

SCRIPT = """\
import os, sys
print("image:   0.1 s  unpacking", file=sys.stderr, flush=True)
{rest}
"""


def _builder(folder: Path, rest: str) -> Path:
    (folder / "build.py").write_text(SCRIPT.format(rest=rest))
    return folder / "build.py"


def test_here_is_a_checkout() -> None:
    assert find_builder().name == "build.py"


def test_without_a_checkout_the_way_out_is_said(tmp_path: Path) -> None:
    with pytest.raises(ProaError) as caught:
        find_builder(tmp_path / "lib/python3/site-packages/proa/__init__.py")
    assert caught.value.code == "no-checkout" and "fetch" in caught.value.hint


async def test_its_steps_are_told_and_its_folder_found(tmp_path: Path) -> None:
    said: list[str] = []
    found = await build(_builder(tmp_path, f"print({str(tmp_path)!r})"), said.append)
    assert (found, said) == (tmp_path, ["unpacking"])


async def test_its_failure_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(ProaError) as caught:
        await build(_builder(tmp_path, "sys.exit('mmdebstrap is not installed')"), lambda text: None)
    assert caught.value.code == "image-build-failed"
    assert caught.value.why == "mmdebstrap is not installed"
