"""One mount for all tests of a module: each works in a folder of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import time_limit, unless_it_ends
from tests.support.share_mounts import ShareMount, give_up

if sys.platform != "linux" or os.geteuid() != 0 or not Path("/dev/fuse").exists():
    collect_ignore_glob = ["test_mount*.py"]


@pytest.fixture(autouse=True)
def no_request_waits_for_ever(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A request whose answer never comes takes no signal: the test's time-out would not end it."""
    with unless_it_ends(time_limit(request.node) + 10, give_up, tmp_path_factory.getbasetemp()):
        yield


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShareMount]:
    folder = tmp_path_factory.mktemp("shares")
    root, read_only = folder / "root", folder / "read-only"
    for made in (root, read_only, root / "keys", folder / "root-evil"):
        made.mkdir()
    (read_only / "there").write_text("there")
    (root / "keys/secret").write_text("secret")
    (folder / "root-evil/canary").write_text("canary")
    with ShareMount(folder, {root: True, read_only: False}, (root / "keys", root / "not-yet")) as found:
        yield found


@pytest.fixture
def host(mount: ShareMount, request: pytest.FixtureRequest) -> Path:
    """A folder of the host's for one test."""
    folder: Path = next(iter(mount.roots)) / request.node.name.replace("[", "-").rstrip("]")
    folder.mkdir()
    return folder
