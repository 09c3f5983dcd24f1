"""What the agent's tests share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short() -> Iterator[Path]:
    """A home's place with a path short enough for a socket's."""
    with tempfile.TemporaryDirectory(prefix="proa-unit-") as folder:
        yield Path(folder) / "h"
