"""Bad input: each gets three plain lines, its exit status, and leaves nothing half-made.

Most fail before a guest is needed; each test has a home of its own.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proa.system.paths import OURS
from tests.support.homes import PATH, Home, Result, wait_until

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]


@pytest.fixture
def empty() -> Iterator[Home]:
    """A home without an image."""
    with Home() as home:
        yield home


@pytest.fixture
def home(image: Path) -> Iterator[Home]:
    with Home() as home:
        home.import_image(image)
        yield home


def refused(result: Result, code: str, *words: str, status: int = 1) -> None:
    """The contract of an error: exit status, the code, at most three lines that start with `proa: `."""
    lines = [line for line in result.err.splitlines() if line.strip()]
    starts = [index for index, line in enumerate(lines) if f"[{code}]" in line]
    assert result.status == status, result
    assert starts, f"{code} is not in {result.err!r}"
    told = lines[starts[-1] :]
    assert len(told) <= 3, told
    assert told[0].startswith("proa: ")
    assert "Traceback" not in result.err
    for word in words:
        assert word in "\n".join(told), told


def nothing_made(home: Home, name: str = "default") -> None:
    machines = home.folder / "machines"
    left = [entry.name for entry in machines.iterdir() if entry.name != OURS] if machines.exists() else []
    assert left == [], left
    assert not (home.folder / "run" / name / "docker.sock").exists()
    assert home.hypervisors() == []


@pytest.mark.parametrize(
    "name",
    ["a/b", "../up", "it's", 'say "hi"', "two\nlines", "x" * 300, "-".join(["$(touch /tmp/proa-evil)"]), ""],
)
@pytest.mark.parametrize("verb", ["start", "stop", "status", "delete"])
def test_a_name_that_cannot_be_is_refused(empty: Home, verb: str, name: str) -> None:
    extra = ["--yes"] if verb == "delete" else []
    refused(empty.proa(verb, *extra, "--", name), "bad-name", status=2)
    nothing_made(empty)
    assert not Path("/tmp/proa-evil").exists()


@pytest.mark.parametrize("verb", [["stop"], ["restart"], ["ports"], ["logs"], ["shell"], ["delete", "--yes"]])
def test_an_unknown_machine_is_said_with_those_there_are(empty: Home, verb: list[str]) -> None:
    result = empty.proa("ports", PROA_MACHINE="nobody") if verb[0] == "ports" else empty.proa(*verb, "nobody")
    refused(result, "machine-unknown", "nobody")


def test_more_memory_than_the_host_has(empty: Home) -> None:
    refused(empty.proa("create", "big", "--memory", "100TiB"), "memory-too-large", "GiB", status=2)
    refused(empty.proa("create", "big", "--memory", "lots"), "bad-setting", "2GiB", status=2)
    refused(empty.proa("create", "big", "--cpus", "400"), "too-many-cpus", status=2)
    refused(empty.proa("create", "big", "--cpus", "4000"), "bad-setting", "512", status=2)
    nothing_made(empty, "big")


def test_no_image_says_how_to_build_one(empty: Home) -> None:
    refused(empty.proa("start"), "image-missing", "make image")
    assert empty.hypervisors() == []


def test_a_corrupt_config_names_the_file(home: Home) -> None:
    home.ok("create", "default")
    config = home.folder / "machines/default/machine.toml"
    config.write_text("version = 1\ncpus = = 1\n")
    refused(home.proa("start"), "config-corrupt", str(config))
    assert home.status()["state"] == "broken"
    assert home.status()["problem"]["code"] == "config-corrupt"
    assert home.hypervisors() == []


def _image_folder(home: Home) -> Path:
    return next(path for path in (home.folder / "images").iterdir() if (path / "manifest.json").exists())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 99}'])
def test_a_corrupt_manifest_names_the_file(home: Home, content: bytes) -> None:
    manifest = _image_folder(home) / "manifest.json"
    manifest.write_bytes(content)
    result = home.proa("start")
    assert result.status == 1
    assert str(manifest) in result.err
    assert home.hypervisors() == []


@pytest.mark.parametrize("change", ["flipped", "truncated", "missing"])
def test_an_altered_image_is_never_booted(home: Home, change: str) -> None:
    root = _image_folder(home) / "root.erofs"
    root.chmod(0o600)
    if change == "flipped":
        with root.open("r+b") as file:
            file.seek(12345)
            byte = file.read(1)
            file.seek(12345)
            file.write(bytes([byte[0] ^ 1]))
    elif change == "truncated":
        os.truncate(root, root.stat().st_size // 2)
    else:
        root.unlink()
    refused(home.proa("start"), "image-altered", "root.erofs")
    assert home.hypervisors() == []


def test_qemu_missing_says_what_to_install(home: Home, tmp_path: Path) -> None:
    result = home.proa("start", PATH=_path_without_qemu(tmp_path))
    refused(result, "qemu-missing", "install")
    assert home.hypervisors() == []


def _path_without_qemu(folder: Path) -> str:
    """A PATH with everything but QEMU."""
    links = folder / "bin"
    links.mkdir()
    for entry in PATH.split(":"):
        for program in Path(entry).iterdir() if Path(entry).is_dir() else ():
            if not program.name.startswith("qemu") and not (links / program.name).exists():
                (links / program.name).symlink_to(program)
    return str(links)


def test_qemu_too_old_says_which_is_needed(home: Home, tmp_path: Path) -> None:
    old = tmp_path / "qemu-system-x86_64"
    old.write_text("#!/bin/sh\necho 'QEMU emulator version 5.2.0 (Debian 1:5.2+dfsg-11)'\n")
    old.chmod(0o755)
    refused(home.proa("start", PROA_QEMU=str(old)), "qemu-too-old", "5.2", "7.2")


def test_a_home_that_belongs_to_another_user(empty: Home) -> None:
    if os.geteuid() != 0:
        pytest.fail("run as root: only root can give a folder away")
    empty.folder.mkdir(mode=0o700)
    os.chown(empty.folder, 65534, 65534)
    refused(empty.proa("start"), "folder-not-private", str(empty.folder), "65534")
    assert list(empty.folder.iterdir()) == []


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    """As a user who is nobody in particular: root may write everywhere."""
    nobody = pwd.getpwnam("nobody")
    place = Path("/tmp") / f"proa-ro-{os.getpid()}"
    place.mkdir(mode=0o755)
    try:
        os.chown(place, nobody.pw_uid, nobody.pw_gid)
        place.chmod(0o500)
        # Interpreter and tree may lie where only root can read: all is imported before privileges drop.
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys, os; import proa.cli.entry, proa.cli, proa.agent.client, proa.system.paths\n"
                f"os.setgroups([]); os.setgid({nobody.pw_gid}); os.setuid({nobody.pw_uid})\n"
                "from proa.system.paths import Places\nfrom proa.model.errors import ProaError\n"
                "try: Places.current().make()\n"
                "except ProaError as error: print(*error.lines, sep='\\n', file=sys.stderr); sys.exit(1)",
            ],
            env={"PROA_HOME": str(place / "home"), "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        refused(Result(done.returncode, done.stdout, done.stderr), "folder-not-writable", "PROA_HOME")
        assert list(place.iterdir()) == []
    finally:
        shutil.rmtree(place)


def test_a_home_too_long_for_a_socket(empty: Home) -> None:
    long = Path("/tmp") / ("proa-" + "x" * 120)
    refused(empty.proa("status", PROA_HOME=str(long)), "socket-path-too-long", "PROA_HOME", status=2)
    assert not long.exists() or not any(long.rglob("*.sock"))
    shutil.rmtree(long, ignore_errors=True)


def test_no_disk_space_is_said_and_nothing_is_left(image: Path, tmp_path: Path) -> None:
    """A real file system that is full: a small tmpfs with the image on it and no room beside it."""
    if os.geteuid() != 0:
        pytest.fail("run as root: only root can mount a small file system")
    place = Path("/tmp") / f"proa-full-{os.getpid()}"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700m,mode=0700", "none", str(place)], check=True)
    home = Home(place / "h")
    try:
        home.import_image(image)
        home.ok("create", "default")
        free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
        with (place / "ballast").open("wb") as file:
            file.write(b"\0" * max(0, free - (100 << 20)))
        refused(home.proa("start"), "disk-full", "free")
        assert home.hypervisors() == []
        assert not (home.folder / "machines/default/data.qcow2").exists()
    finally:
        home.close()
        umount = ["umount", str(place)]
        wait_until(
            lambda: subprocess.run(umount, check=False).returncode == 0, 20, "nobody is in it any more"
        )
        place.rmdir()


def test_a_disk_with_a_backing_file_is_refused(home: Home, tmp_path: Path) -> None:
    home.ok("create", "default")
    disk = home.folder / "machines/default/data.qcow2"
    base = tmp_path / "base.qcow2"
    for argv in (
        ["qemu-img", "create", "-q", "-f", "qcow2", str(base), "60G"],
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "qcow2", str(disk)],
    ):
        subprocess.run(argv, check=True)
    before = disk.read_bytes()
    refused(home.proa("start"), "disk-has-backing-file", str(disk))
    assert disk.read_bytes() == before


def test_a_planted_link_at_a_log_or_a_socket_is_not_followed(home: Home, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    precious.chmod(stat.S_IRUSR | stat.S_IWUSR)
    home.ok("create", "default")
    socket = home.folder / "run/default/docker.sock"
    pid = home.agent_pid()
    assert pid is not None
    os.kill(pid, 15)

    wait_until(lambda: home.agent_pid() is None, 15, "the agent ended")
    socket.unlink(missing_ok=True)
    socket.symlink_to(precious)
    status = home.status()
    assert status["problem"]["code"] == "socket-path-taken"
    assert precious.read_text() == "mine"


def test_an_unknown_verb_and_option_are_wrong_usage(empty: Home) -> None:
    for argv in (["strat"], ["start", "--fast"], ["status", "a", "b"]):
        result = empty.proa(*argv)
        assert result.status == 2, result
        assert "Traceback" not in result.err
    assert "start" in empty.proa("strat").err, "near matches are offered"
