"""A shared folder of a system where `A` and `a` are one file (tests/support/any_case.py)."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.any_case import SERVER
from tests.support.share_mounts import ShareMount, outcome, soon

pytestmark = [pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("disk")
    (folder / "root").mkdir()
    with ShareMount(folder, {folder / "root": True}, server=SERVER) as mount:
        yield mount.path(folder / "root")


@pytest.fixture(scope="module", params=("asks", "is-told"))
def mount(
    disk: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[ShareMount]:
    """Asked for each time as Linux tells too little of such disks, and told by paths, as macOS does."""
    told = ("-m", "tests.support.by_path", "any-case")
    server = told if request.param == "is-told" else ("-m", "proa.shares")
    with ShareMount(tmp_path_factory.mktemp("guest"), {disk: True}, server=server) as found:
        yield found


@pytest.fixture
def host(disk: Path, mount: ShareMount, request: pytest.FixtureRequest) -> Path:
    folder = disk / request.node.name.replace("[", "-").rstrip("]")
    folder.mkdir()
    mount.settled()  # while it is told that a folder was made, nobody can ask where he is in it
    return folder


@pytest.fixture
def guest(mount: ShareMount, host: Path) -> Path:
    return mount.path(host)


def test_the_disk_is_of_that_kind(host: Path) -> None:
    (host / "Name").write_text("x")
    assert (host / "nAME").read_text() == "x" and os.listdir(host) == ["Name"]
    assert outcome((host / "Name").mkdir) == "EEXIST"


def test_one_file_by_every_name(host: Path, guest: Path) -> None:
    (guest / "ReadMe").write_text("one")
    assert (guest / "README").read_text() == "one"
    assert os.path.samefile(guest / "readme", guest / "ReadMe")
    with (guest / "README").open("a") as file:
        file.write(" two")
    assert (guest / "ReadMe").read_text() == (host / "readme").read_text() == "one two"
    assert os.listdir(guest) == ["ReadMe"]
    (guest / "readme").unlink()
    assert soon(lambda: not (guest / "ReadMe").exists() and not (guest / "README").exists())


def test_what_is_there_in_another_case_is_in_the_way(guest: Path) -> None:
    (guest / "Name").write_text("x")
    assert outcome((guest / "NAME").mkdir) == "EEXIST"
    assert outcome(os.symlink, "x", guest / "name") == "EEXIST"
    assert outcome(os.open, guest / "name", os.O_CREAT | os.O_EXCL) == "EEXIST"
    (guest / "Folder").mkdir()
    (guest / "FOLDER/file").write_text("x")
    assert outcome((guest / "folder").rmdir) == "ENOTEMPTY"


def test_a_name_that_is_to_change_only_its_case_loses_nothing(host: Path, guest: Path) -> None:
    """The guest's kernel takes the two for one file with two names, as it is, and leaves both."""
    (guest / "Name").write_text("x")
    os.rename(guest / "Name", guest / "NAME")
    assert os.listdir(host) == os.listdir(guest) == ["Name"]
    assert (guest / "NAME").read_text() == (guest / "Name").read_text() == "x"
    os.rename(guest / "NAME", guest / "between")
    os.rename(guest / "BETWEEN", guest / "NAME")
    assert os.listdir(host) == os.listdir(guest) == ["NAME"], "by a third name it can be done"


def test_what_the_host_does_is_seen_by_every_name(host: Path, guest: Path) -> None:
    (host / "Name").write_text("one")
    assert (guest / "NAME").read_text() == (guest / "name").read_text() == "one"
    (host / "nAME").write_text("three")
    assert soon(lambda: (guest / "NAME").read_text() == (guest / "name").read_text() == "three")
    os.rename(host / "Name", host / "other")
    assert soon(lambda: not (guest / "NAME").exists() and not (guest / "name").exists())
    assert (guest / "OTHER").read_text() == "three"
    (host / "OTHER").unlink()
    assert soon(lambda: not (guest / "other").exists() and os.listdir(guest) == [])


def test_editors_save_and_programs_work(host: Path, guest: Path) -> None:
    (guest / "Notes.txt").write_text("old")
    (guest / "notes.txt.tmp").write_text("new")
    os.replace(guest / "Notes.txt.tmp", guest / "notes.txt")
    assert (host / "NOTES.TXT").read_text() == "new" and len(os.listdir(guest)) == 1
    with contextlib.closing(sqlite3.connect(guest / "Data.db")) as database:
        database.execute("create table t (x)")
        database.execute("insert into t values (1)")
        database.commit()
    with contextlib.closing(sqlite3.connect(guest / "data.DB")) as database:
        assert database.execute("select x from t").fetchall() == [(1,)]


def test_git_finds_out_what_kind_of_disk_it_is(guest: Path) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=x", "-c", "user.email=x@x")
        return subprocess.run(
            ["git", *identity, *words], cwd=guest, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    git("init", "-q", "-b", "main")
    assert git("config", "core.ignorecase").strip() == "true"
    (guest / "File").write_text("x")
    git("add", "-A")
    git("commit", "-qm", "one")
    os.rename(guest / "File", guest / "file")
    assert git("status", "--porcelain") == ""
    git("mv", "File", "FILE")
    git("commit", "-qm", "two")
    assert git("ls-files").split() == ["FILE"] and git("status", "--porcelain") == ""
