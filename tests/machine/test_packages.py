"""The wheel and the Debian package, each as a user has it: built, installed elsewhere, used, removed."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import sys
import threading
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.caches import REPOSITORY
from tests.support.commands import run
from tests.support.debian_root import DebianRoot, debian_root
from tests.support.homes import PATH, START_TIMEOUT, Home

pytestmark = [pytest.mark.machine, pytest.mark.long, pytest.mark.timeout(1500)]

BUILD_TIMEOUT = 600.0
# Each command is one that a user would type; the guest runs only while the script does.
USE = """
cd /home/user
export PROA_HOME=/home/user/p
proa version
proa status --json | grep '"state": *"absent"'
mkdir -p -m 700 p/keys p/keys/trusted
printf '%s\n' "$SIGNER" >p/keys/trusted/maker.pub
proa image fetch "$ARCHIVE"
proa image list | grep maker
proa start >started.txt
proa docker version --format '{{.Server.Version}}' >engine.txt
proa status
proa stop
pid=$(head -n 1 p/run/agent.lock)
kill "$pid"
while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
"""


@dataclass(frozen=True)
class Release:
    """A guest image as somebody hands it on."""

    archive: Path
    signer: str  # the line of the maker's public key


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    archive = tmp_path_factory.mktemp("release") / "proa-image.tar"
    with Home() as maker:
        maker.ok("image", "build", "--archive", str(archive), timeout=BUILD_TIMEOUT)
        return Release(archive, (maker.folder / "keys/local.pub").read_text().strip())


@pytest.fixture(scope="module")
def wheel() -> Path:
    made = run([str(REPOSITORY / "scripts/wheel")], timeout=BUILD_TIMEOUT).check().out
    return REPOSITORY / made


def test_the_wheel_works_outside_the_checkout(wheel: Path, release: Release, tmp_path: Path) -> None:
    before = wheel.read_bytes()
    run([str(REPOSITORY / "scripts/wheel")], timeout=BUILD_TIMEOUT).check()
    assert wheel.read_bytes() == before, "the same source gives the same bytes"

    venv = tmp_path / "venv"
    run([sys.executable, "-m", "venv", str(venv)], timeout=120).check()
    pip = [str(venv / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
    locked = next(wheel.parent.glob("proa-*.lock"))
    run([*pip, "--require-hashes", "-r", str(locked)], timeout=BUILD_TIMEOUT).check()
    run([*pip, "--no-deps", "--no-index", str(wheel)], timeout=BUILD_TIMEOUT).check()
    run([str(venv / "bin/pip"), "check"], timeout=60).check()

    with Home() as home:
        environ = {"PATH": PATH, "HOME": str(tmp_path), "PROA_HOME": str(home.folder)}

        def proa(*argv: str, timeout: float = 60) -> str:
            return (
                run([str(venv / "bin/proa"), *argv], timeout=timeout, env=environ, cwd=tmp_path).check().out
            )

        where = "import proa, proa_guest; print(proa.__file__, proa_guest.__file__)"
        found = run([str(venv / "bin/python"), "-c", where], timeout=60, env=environ, cwd=tmp_path).check()
        assert all(path.startswith(str(venv)) for path in found.out.split())
        stranger = run(
            [str(venv / "bin/proa"), "image", "import", str(release.archive)], timeout=120, env=environ
        )
        assert stranger.status == 1 and "keys/trusted" in stranger.err, stranger
        trusted = home.folder / "keys/trusted"
        trusted.mkdir(parents=True, exist_ok=True)
        (trusted / "maker.pub").write_text(release.signer + "\n")
        proa("image", "import", str(release.archive), timeout=120)
        proa("start", timeout=START_TIMEOUT)
        engine = home.status()["engine"]["version"]
        assert engine and engine in proa("docker", "version")
        proa("stop", timeout=START_TIMEOUT)
        assert home.hypervisors() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="a root of its own is made by root")
def test_the_debian_package_is_built_installed_used_and_removed(wheel: Path, release: Release) -> None:
    built = run([str(REPOSITORY / "scripts/deb")], timeout=BUILD_TIMEOUT).check()
    assert built.err == "", "lintian has nothing to say"
    package = REPOSITORY / built.out
    with debian_root() as root:
        root.apt("update").check()
        root.apt("install", "init-system-helpers").check()
        before = root.files()
        _install(root, package)
        assert root.run("dpkg", "--verify", "proa").check().out == ""
        wants = root.folder / "etc/systemd/user/sockets.target.wants/proa.socket"
        assert wants.is_symlink()
        _use(root, release)

        root.apt("purge", "proa").check()
        root.apt("autoremove", "--purge").check()
        left = {path for path in root.files() - before if "proa" in path}
        assert left == set(), "purge leaves nothing of the package's"
        assert (root.folder / "home/user/p/machines/default/data.qcow2").stat().st_size > 1 << 20
        assert (root.folder / "home/user/p/images").is_dir()


def _install(root: DebianRoot, package: Path) -> None:
    shutil.copy(package, root.folder / package.name)
    root.apt("install", f"/{package.name}").check()
    (root.folder / package.name).unlink()


def _use(root: DebianRoot, release: Release) -> None:
    """As a user without rights: from the first command to a stopped machine."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(release.archive.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{release.archive.name}"
        script = f"ARCHIVE={shlex.quote(url)}\nSIGNER={shlex.quote(release.signer)}\n{USE}"
        try:
            used = root.as_user(script, timeout=2 * START_TIMEOUT)
        finally:
            server.shutdown()
    assert used.status == 0, used.report("failed")
    home = root.folder / "home/user"
    assert (home / "engine.txt").read_text().strip()
    assert "default is running" in (home / "started.txt").read_text()
    assert "default is stopped" in used.out
    # Its bytecode was compiled at the installation: a user could not write it.
    assert list((root.folder / "usr/lib/proa").rglob("proa/cli/__pycache__/*.pyc"))
