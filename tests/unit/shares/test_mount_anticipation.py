"""What the guest is told before it asks: it costs fewer requests, and is never older than an answer."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proa.shares.anticipation import MOST
from tests.support.share_mounts import ShareMount, exists, outcome, soon

pytestmark = [pytest.mark.timeout(60)]


# A busy machine would end a walk early, and how often that is asked for is no matter of its speed here.
_PATIENT = """
import sys
from proa.shares import __main__, anticipation
anticipation.LONGEST_WALK = 60
sys.exit(__main__.main(sys.argv))
"""


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[ShareMount]:
    """One for each test: what the guest knows already is not told ahead."""
    (tmp_path / "root").mkdir()
    with ShareMount(tmp_path, {tmp_path / "root": True}, server=("-c", _PATIENT)) as found:
        yield found


def files(folder: Path, count: int) -> list[str]:
    names = [f"file{number:05}" for number in range(count)]
    for name in names:
        (folder / name).write_text(name)
    return names


def test_a_cold_folder_of_files_costs_one_request(mount: ShareMount, host: Path) -> None:
    names = files(host, 100)
    top = os.open(mount.path(host), os.O_RDONLY)
    before = mount.asked()
    for name in names:
        assert os.stat(name, dir_fd=top).st_size == len(name)
    assert mount.asked() - before == 1
    os.close(top)


def test_a_walk_through_folders_costs_one_request_each(mount: ShareMount, host: Path) -> None:
    for folder in range(20):
        (host / f"{folder}").mkdir()
        for name in range(10):
            (host / f"{folder}/{name}").write_text(f"{folder} {name}")
    top = os.open(mount.path(host), os.O_RDONLY)
    before = mount.asked()
    for folder in range(20):
        for name in range(10):
            assert os.stat(f"{folder}/{name}", dir_fd=top).st_size == len(f"{folder} {name}")
    assert mount.asked() - before <= 5  # the first folder does not show yet that it is a walk
    # And nothing of it is older than what the host has done since.
    (host / "7/3").write_text("changed since")
    (host / "8/3").unlink()
    assert soon(lambda: os.stat("7/3", dir_fd=top).st_size == len("changed since"))
    assert soon(lambda: not exists(mount.path(host) / "8/3"))
    os.close(top)


def test_a_tree_that_is_walked_through_costs_few_requests(mount: ShareMount, host: Path) -> None:
    for number in range(60):
        folder = host / f"{number % 6}/{number // 6}"
        folder.mkdir(parents=True)
        for name in range(5):
            (folder / f"{name}").write_text("x" * name)
    top = os.open(mount.path(host), os.O_RDONLY)
    before = mount.asked()
    paths = sorted(f"./{top}/{sub}/{name}" for top in range(6) for sub in range(10) for name in range(5))
    for path in paths:  # as git looks whether anything is changed
        assert os.stat(path, dir_fd=top).st_size == int(path[-1])
    found = [os.path.join(at, name) for at, _, names, _ in os.fwalk(".", dir_fd=top) for name in names]
    assert sorted(found) == paths  # and whether anything is new
    assert mount.asked() - before <= 25
    os.close(top)


def test_a_second_look_at_a_tree_costs_next_to_nothing(mount: ShareMount, host: Path) -> None:
    """Though reading a folder changes its time of access, and git makes and removes a file at each look."""
    for number in range(60):
        folder = host / f"{number:02}"
        folder.mkdir()
        files(folder, 2)
    top = os.open(mount.path(host), os.O_RDONLY)

    def look() -> int:
        before = mount.asked()
        for read in (False, True):
            for number in range(60):
                for name in ("", "file00000", "file00001"):
                    os.stat(f"{number:02}/{name}", dir_fd=top)
                if read:
                    assert len(os.listdir(mount.path(host) / f"{number:02}")) == 2
        return mount.asked() - before

    assert look() < 30
    (mount.path(host) / "index.lock").touch()
    (mount.path(host) / "index.lock").unlink()
    assert look() < 10
    os.close(top)


def test_who_picks_folders_here_and_there_is_told_of_those(mount: ShareMount, host: Path) -> None:
    for number in range(100):
        (host / f"{number:03}/sub").mkdir(parents=True)
        (host / f"{number:03}/file").write_text("x")
        (host / f"{number:03}/sub/file").write_text("x")
    top = os.open(mount.path(host), os.O_RDONLY)
    before = mount.status()["nodes"]
    for number in (50, 20, 80, 10, 90):
        os.stat(f"{number:03}/file", dir_fd=top)
    assert mount.status()["nodes"] - before <= 5 * 3  # the folder, what is in it, and nothing below
    os.close(top)


def test_who_looks_at_folders_only_is_told_of_no_files(mount: ShareMount, host: Path) -> None:
    for folder in range(20):
        (host / f"{folder}").mkdir()
        (host / f"{folder}/file").write_text("x")
    top = os.open(mount.path(host), os.O_RDONLY)
    before = mount.status()["nodes"]
    for folder in range(20):
        os.stat(f"{folder}", dir_fd=top)
    assert mount.status()["nodes"] == before + 20
    os.close(top)


def test_a_large_folder_is_told_in_parts(mount: ShareMount, host: Path) -> None:
    names = files(host, 3 * MOST)
    top = os.open(mount.path(host), os.O_RDONLY)
    before = mount.asked()
    for name in names:
        assert stat.S_ISREG(os.stat(name, dir_fd=top).st_mode)
    # On a busy machine a part ends early, as the answer waits for it.
    assert mount.asked() - before <= len(names) / 10
    os.close(top)


def test_a_listing_that_is_read_to_its_end_costs_no_request_to_find_it(mount: ShareMount, host: Path) -> None:
    names = files(host, 50)
    top = os.open(mount.path(host), os.O_RDONLY)
    before = mount.asked()
    assert sorted(os.listdir(top)) == names
    os.stat(".", dir_fd=top)
    assert mount.asked() - before <= 2  # OPENDIR is answered by none
    os.close(top)


def test_a_new_file_costs_no_look_at_its_folder(mount: ShareMount, host: Path) -> None:
    top = os.open(mount.path(host), os.O_RDONLY)
    os.listdir(top)
    for number in range(20):
        before = mount.asked()
        os.close(os.open(f"new{number}", os.O_CREAT | os.O_WRONLY, dir_fd=top))
        told = os.stat(".", dir_fd=top)
        assert told.st_mtime_ns == host.stat().st_mtime_ns
        assert mount.asked() - before <= 3  # LOOKUP, CREATE, FLUSH
    os.close(top)


def test_a_file_in_a_new_folder_is_not_asked_for(mount: ShareMount, host: Path) -> None:
    top = os.open(mount.path(host), os.O_RDONLY)
    os.mkdir("new", dir_fd=top)
    inside = os.open("new", os.O_RDONLY, dir_fd=top)
    os.close(os.open("first", os.O_CREAT | os.O_WRONLY, dir_fd=inside))
    before = mount.asked()
    for number in range(20):
        handle = os.open(f"{number}", os.O_CREAT | os.O_WRONLY, dir_fd=inside)
        os.write(handle, b"x")
        os.close(handle)
    assert mount.asked() - before <= 20 * 2 + 1  # CREATE, WRITE; and the RELEASE of the first
    (host / "new/hosts").write_text("from the host")
    mount.settled()
    with open("hosts", opener=lambda path, flags: os.open(path, flags, dir_fd=inside)) as file:
        assert file.read() == "from the host"
    os.close(inside)
    os.close(top)


def test_what_the_host_puts_into_a_new_folder_is_seen(mount: ShareMount, host: Path) -> None:
    """Right when it is made, too."""
    for number in range(30):
        guest = mount.path(host) / f"{number}"
        there = host / f"{number}"

        def put(there: Path = there) -> None:
            while True:
                try:
                    (there / "file").write_text("x")
                    return
                except FileNotFoundError:
                    continue

        putting = threading.Thread(target=put)
        putting.start()
        guest.mkdir()
        (guest / "file").exists()
        putting.join(10)
        assert soon((guest / "file").exists)


def test_reading_a_file_costs_what_it_must(mount: ShareMount, host: Path) -> None:
    names = files(host, 20)
    top = os.open(mount.path(host), os.O_RDONLY)
    os.stat(names[0], dir_fd=top)
    before = mount.asked()
    for name in names:
        with open(name, opener=lambda path, flags: os.open(path, flags, dir_fd=top)) as file:
            assert file.read() == name
    assert mount.asked() - before <= 2 * len(names) + 1  # OPEN, RELEASE; FLUSH once
    os.close(top)


def test_reading_it_again_costs_nothing(mount: ShareMount, host: Path) -> None:
    names = files(host, 20)
    top = os.open(mount.path(host), os.O_RDONLY)

    def read() -> None:
        for name in names:
            with open(name, opener=lambda path, flags: os.open(path, flags, dir_fd=top)) as file:
                assert file.read() == name

    read()
    before = mount.asked()
    read()
    assert mount.asked() - before <= 1
    os.close(top)


def test_what_is_kept_open_is_let_go(mount: ShareMount, host: Path) -> None:
    files(host, 20)
    guest = mount.path(host)

    def kept() -> int:
        return int(mount.status()["open"])

    def read() -> None:
        for path in guest.iterdir():
            path.read_text()

    read()
    assert kept() == 20
    assert soon(lambda: kept() == 0), "nobody reads them again"
    read()
    (host / "file00003").unlink()
    assert soon(lambda: kept() == 19), "nothing holds the disk's room"
    (guest / "file00004").unlink()
    assert soon(lambda: kept() == 0)
    read()
    mount.connect()
    read()
    assert soon(lambda: kept() == 0)
    mount.kill_server()
    mount.start_server(fresh=False)
    mount.connect()


def test_how_a_file_looks_is_never_told_late(mount: ShareMount, host: Path) -> None:
    """What reading it brings along is not older than what the guest does next."""
    names = files(host, 6)
    guest = mount.path(host)
    with (guest / names[0]).open() as file:
        file.read()
        os.unlink(guest / names[0])
        assert os.fstat(file.fileno()).st_nlink == 0
    with (guest / names[1]).open() as file:
        file.read()
        os.link(guest / names[1], guest / "second")
        assert os.fstat(file.fileno()).st_nlink == 2
        os.unlink(guest / "second")
        assert os.fstat(file.fileno()).st_nlink == 1
    with (guest / names[2]).open() as file:
        file.read()
        os.rename(guest / names[2], guest / "moved")
        assert os.fstat(file.fileno()).st_ctime_ns == (host / "moved").stat().st_ctime_ns
    with (guest / names[3]).open() as file:
        file.read()
        os.truncate(guest / names[3], 3)
        assert os.fstat(file.fileno()).st_size == 3
    with (guest / names[4]).open() as file:
        file.read()
        os.chmod(guest / names[4], 0o600)
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
    with (guest / names[5]).open() as file:
        file.read()
        (host / names[5]).write_text("longer than it was")
        mount.settled()
        assert os.fstat(file.fileno()).st_size == len("longer than it was")


def test_contents_told_ahead_are_the_last(mount: ShareMount, host: Path) -> None:
    """Whoever changes them, and however it is read."""
    names = files(host, 5)
    guest = mount.path(host)
    for number, name in enumerate(names * 3):
        text = f"{number} from the host"
        (host / name).write_text(text)
        assert soon(lambda name=name, text=text: (guest / name).read_text() == text)  # type: ignore[misc]
        with (guest / name).open("r+") as file:
            file.write("guest")
            file.truncate(5)
        assert (guest / name).read_text() == "guest" == (host / name).read_text()
        with (guest / name).open() as reading, (guest / name).open("a") as writing:
            writing.write(" and more")
            writing.flush()
            assert reading.read() == "guest and more"
    large = host / "large"
    large.write_bytes(bytes(range(256)) * 1000)
    assert (guest / "large").read_bytes() == large.read_bytes()


def test_files_told_ahead_are_the_hosts_at_once(mount: ShareMount, host: Path) -> None:
    files(host, 8)
    guest = mount.path(host)
    assert (guest / "file00000").read_text() == "file00000"  # the others are told with it
    (host / "file00001").write_text("longer than before")
    (host / "file00002").unlink()
    os.chmod(host / "file00003", 0o600)
    (host / "new").write_text("in its place")
    os.replace(host / "new", host / "file00004")
    os.replace(host / "file00005", host / "moved")
    (host / "file00006").unlink()
    (host / "file00006").mkdir()
    mount.settled()
    assert (guest / "file00001").read_text() == "longer than before"
    assert not (guest / "file00002").exists()
    assert stat.S_IMODE((guest / "file00003").stat().st_mode) == 0o600
    assert (guest / "file00004").read_text() == "in its place"
    assert not (guest / "file00005").exists() and (guest / "moved").read_text() == "file00005"
    assert (guest / "file00006").is_dir()
    assert (guest / "file00007").read_text() == "file00007"


def test_files_told_ahead_are_changed_by_the_guest(mount: ShareMount, host: Path) -> None:
    files(host, 8)
    guest = mount.path(host)
    assert (guest / "file00000").read_text() == "file00000"
    os.rename(guest / "file00001", guest / "file00002")
    assert (guest / "file00002").read_text() == "file00001" and not (guest / "file00001").exists()
    os.unlink(guest / "file00003")
    assert not (guest / "file00003").exists()
    os.link(guest / "file00004", guest / "second")
    assert (guest / "file00004").stat().st_nlink == 2 == (guest / "second").stat().st_nlink
    (guest / "file00005").write_text("")
    assert (guest / "file00005").stat().st_size == 0
    (guest / "file00006").write_text("now here")
    os.replace(guest / "file00006", guest / "file00007")
    assert (guest / "file00007").read_text() == "now here" == (host / "file00007").read_text()


def test_what_the_host_changes_all_the_time_is_never_told_late(mount: ShareMount, host: Path) -> None:
    """Whatever is told while a file changes, the last change counts."""
    for number in range(10):
        folder = host / f"{number}"
        folder.mkdir()
        names = files(folder, 20)
        guest = mount.path(folder)
        os.listdir(mount.path(host))
        begun = threading.Event()

        def change(folder: Path = folder, names: list[str] = names, begun: threading.Event = begun) -> None:
            begun.set()
            for name in reversed(names):
                (folder / name).write_text("changed " + name)

        changing = threading.Thread(target=change)
        changing.start()
        begun.wait(5)
        for name in names:
            os.stat(guest / name)
        changing.join(10)
        for name in names:
            told = guest / name
            assert soon(lambda told=told, name=name: told.read_text() == "changed " + name), name  # type: ignore[misc]
            assert told.stat().st_size == len("changed " + name)


def test_a_second_name_on_the_host_is_not_told_ahead(mount: ShareMount, host: Path) -> None:
    """It may be changed where nobody looks."""
    files(host, 4)
    (host / "elsewhere").mkdir()
    os.link(host / "file00002", host / "elsewhere/second")
    guest = mount.path(host)
    top = os.open(guest, os.O_RDONLY)
    os.stat("file00000", dir_fd=top)
    before = mount.asked()
    os.stat("file00001", dir_fd=top)
    assert mount.asked() == before
    os.stat("file00002", dir_fd=top)
    assert mount.asked() == before + 1
    os.close(top)


def test_what_was_told_and_not_used_is_given_back(mount: ShareMount, host: Path) -> None:
    names = files(host, 250)
    guest = mount.path(host)
    before = mount.status()["nodes"]
    os.stat(guest / names[0])
    assert mount.status()["nodes"] > before + 200
    mount.connect()  # nothing is told ahead any more
    # They are reported many at once.
    assert soon(lambda: not (guest / "none").exists() and mount.status()["nodes"] < before + 140)
    for name in names:
        assert (guest / name).read_text() == name


def test_what_was_written_is_closed_soon(mount: ShareMount, host: Path) -> None:
    """Also by a server that has it open from an earlier one, and was told over a stream that broke."""
    guest = mount.path(host)

    def write(name: str) -> None:
        (guest / name).write_text("x")

    for number in range(20):
        write(f"{number}")
    assert soon(lambda: mount.status()["open"] == 0)
    for number in range(20):
        write(f"again{number}")
        if number % 5 == 0:
            mount.connect()
        if number % 10 == 3:
            mount.kill_server()
            mount.start_server(fresh=False)
            mount.connect()
    assert soon(lambda: mount.status()["open"] == 0)
    script = guest / "script"
    script.write_text("#!/bin/sh\necho done\n")
    script.chmod(0o755)
    # Linux runs nothing that somebody has open for writing.
    assert soon(lambda: outcome(_run, host / "script") == b"done\n")


def _run(program: Path) -> bytes:
    return subprocess.run([program], check=True, capture_output=True, timeout=30).stdout
