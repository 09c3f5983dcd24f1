"""What the tests with a real guest share: one image, one registry, one machine."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))  # tests.support, which is no installed package

from tests.support import debian_images  # noqa: E402
from tests.support.caches import cache_folder, guest_image  # noqa: E402
from tests.support.clients import Docker  # noqa: E402
from tests.support.commands import run  # noqa: E402
from tests.support.debian_images import BuiltImage  # noqa: E402
from tests.support.homes import PROA, Home  # noqa: E402
from tests.support.native import native_agent  # noqa: E402
from tests.support.native_engine import NativeEngine, native_engine  # noqa: E402
from tests.support.native_front import NativeFront, native_front  # noqa: E402
from tests.support.registry import Registry, serve  # noqa: E402

MEMORY = "2GiB"


@pytest.fixture(scope="session")
def image() -> Path:
    return guest_image()


@pytest.fixture(scope="session")
def test_images() -> tuple[BuiltImage, ...]:
    return debian_images.build_all(cache_folder("test-images"), lambda line: print(line, file=sys.stderr))


@pytest.fixture(scope="session")
def registry(test_images: tuple[BuiltImage, ...]) -> Iterator[Registry]:
    """Docker Hub's mirror for the guest, with all test images."""
    storage = Path("/tmp") / f"proa-registry-{secrets.token_hex(4)}"
    try:
        with serve(storage, test_images) as registry:
            yield registry
    finally:
        shutil.rmtree(storage, ignore_errors=True)


@pytest.fixture(scope="session")
def home(image: Path) -> Iterator[Home]:
    """The installation of the shared machine."""
    with Home(Path("/tmp") / f"proa-test-{secrets.token_hex(3)}") as home:
        home.import_image(image)
        yield home


@pytest.fixture(scope="session")
def machine(home: Home, registry: Registry) -> Iterator[dict[str, Any]]:
    """The status of the running machine `default`, booted once for all tests that only use it."""
    home.ok("create", "default", "--cpus", "1", "--memory", MEMORY, "--disk", "20GiB")
    home.ok("config", "set", "registry.mirrors", f"http://{registry.address}")
    home.ok("config", "set", "registry.insecure", registry.address)
    home.ok("start")
    yield home.status()
    home.ok("delete", "default", "--yes")


@pytest.fixture(scope="module")
def docker(home: Home, machine: dict[str, Any]) -> Iterator[Docker]:
    """The Docker CLI on the shared machine; what a module left there is removed with it."""
    assert machine["state"] == "running"
    docker = Docker(home)
    yield docker
    docker.sweep()


@pytest.fixture(scope="session")
def engine() -> Iterator[NativeEngine]:
    """The guest's engine beside this host's, with busybox."""
    if os.geteuid() != 0:
        pytest.skip("an engine in namespaces of its own needs root")
    with native_engine() as engine:
        engine.load("library/busybox")
        yield engine


@pytest.fixture(scope="session")
def front(engine: NativeEngine) -> Iterator[NativeFront]:
    """Proa in front of that engine."""
    folder = engine.folder / "link"
    folder.mkdir()
    (folder / "engine.sock").symlink_to(engine.socket)
    with native_agent(folder, beside=engine.pid) as agent, native_front(agent, folder) as front:
        yield front


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """A failure shows the last lines of the console, the agent and the engine."""
    report = yield
    home = getattr(item, "funcargs", {}).get("home")
    if report.failed and isinstance(home, Home):
        report.sections.append(("logs of the installation", home.last_words(30)))
        report.sections.append(("the engine's log", _engine_log(home)))
    return report


def _engine_log(home: Home) -> str:
    argv = [PROA, "logs", "--source", "engine", "-n", "30"]
    try:
        return run(argv, env=home.environ, timeout=15).out
    except AssertionError as silent:  # whatever hindered the test may hinder this as well
        return str(silent)
