"""What a call's command sees: the host's folders at their own paths, and nothing else that it could write."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proa_guest.launch import places

GUEST = Path(__file__).resolve().parents[3] / "guest"


def test_outer_folders_are_mounted_first() -> None:
    folders = [["/f/home/me/deep", "/home/me/deep"], ["/f/home/me", "/home/me"]]
    assert places(folders, "/home/me") == [
        ("/f/home/me", "/home/me"),
        ("/f/home/me/deep", "/home/me/deep"),
    ]


@pytest.mark.parametrize("target", ["/usr", "/etc/app", "/run/user/1000", "/proc", "/lib"])
def test_no_folder_takes_the_place_of_what_the_command_needs(target: str) -> None:
    assert places([["/f" + target, target]], target) == []


def test_of_a_share_that_holds_the_guests_own_folders_the_users_is_shown() -> None:
    assert places([["/f", "/"]], "/srv/app") == [("/f/srv/app", "/srv/app")]
    assert places([["/f/var", "/var"]], "/var/www") == [("/f/var/www", "/var/www")]
    assert places([["/f", "/"], ["/f/srv", "/srv"]], "/srv/app") == [
        ("/f/srv", "/srv"),
        ("/f/srv/app", "/srv/app"),
    ]
    assert places([["/f", "/"]], "/") == []


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not in /tmp, which the command has its own of."""
    if os.geteuid() != 0:
        pytest.skip("mounts in a namespace of one's own need root")
    place = Path(tempfile.mkdtemp(prefix="proa-unit-", dir="/var/tmp"))
    (place / "source").mkdir()
    (place / "source/file").write_text("the host's\n")
    (place / "empty").mkdir()
    yield place
    shutil.rmtree(place)


def launched(folder: Path, script: str, **change: object) -> subprocess.CompletedProcess[str]:
    target = folder / "here/project"
    spec = {
        "argv": ["/bin/sh", "-c", script],
        "environ": {"PATH": "/usr/bin:/bin", "MINE": "1"},
        "cwd": str(target),
        "empty": str(folder / "empty"),
        "note": "",
        "folders": [[str(folder / "source"), str(target)]],
        "terminal": None,
        **change,
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    return subprocess.run(
        [sys.executable, "-c", "from proa_guest.launch import main; main()", str(folder / "spec.json")],
        env={**os.environ, "PYTHONPATH": str(GUEST)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_hosts_folder_is_where_the_host_has_it(folder: Path) -> None:
    done = launched(folder, "pwd; cat file; echo new > made; env | grep MINE; exit 9")
    assert (done.stdout, done.stderr, done.returncode) == (
        f"{folder}/here/project\nthe host's\nMINE=1\n",
        "",
        9,
    )
    assert (folder / "source/made").read_text() == "new\n"
    assert not list((folder / "here/project").iterdir()), "others do not see it"


def test_nothing_else_can_be_written_and_lost(folder: Path) -> None:
    script = f"echo x > {folder}/lost; echo $?; echo x > /tmp/own && ls -A /tmp"
    done = launched(folder, script)
    assert done.stdout.split() == ["2", "own"] or done.stdout.split() == ["1", "own"]
    assert "Read-only file system" in done.stderr
    assert not (folder / "lost").exists() and not Path("/tmp/own").exists()


def test_in_a_folder_that_is_not_shared_there_is_nothing_and_it_is_said(folder: Path) -> None:
    done = launched(folder, "ls -A; echo x > lost", cwd="", note="it is not shared")
    assert done.stdout == ""
    assert done.stderr.startswith("proa: it is not shared\n") and "Read-only file system" in done.stderr


def test_a_folder_that_is_gone_is_named_and_hinders_nothing_else(folder: Path) -> None:
    gone = [str(folder / "gone"), str(folder / "where/it/was")]
    kept = [str(folder / "source"), str(folder / "here/project")]
    done = launched(folder, "cat file", folders=[gone, kept])
    assert done.stdout == "the host's\n"
    assert (
        done.stderr
        == f"proa: {folder}/where/it/was cannot be seen from the machine: No such file or directory\n"
    )


def test_a_command_that_is_not_there_is_said(folder: Path) -> None:
    done = launched(folder, "", argv=["/no/such/docker"])
    assert done.returncode == 126 and "/no/such/docker cannot be run in the machine" in done.stderr
