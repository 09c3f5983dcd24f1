"""What all unit tests share: none of them touches the files of whoever runs them."""

from __future__ import annotations

from pathlib import Path

import hypothesis  # noqa: F401  at the start: its plugin else imports it last, where Python 3.11's parser may fail
import pytest


@pytest.fixture(autouse=True)
def docker_config(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Docker folder of the test's own, which a client would tell the agent of."""
    folder = tmp_path_factory.mktemp("docker") / "config"
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder
