"""The host's disk is full, read-only, unplugged, or very many files: errors are told, nothing is lost."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.share_mounts import ShareMount, soon

pytestmark = [pytest.mark.timeout(180)]
MIB = 1 << 20


@contextmanager
def disk(at: Path, options: str = "size=2m,mode=755") -> Iterator[Path]:
    """A file system of its own on the host."""
    at.mkdir(exist_ok=True)
    run(("mount", "-t", "tmpfs", "-o", options, "proa-test", str(at)), timeout=20).check()
    try:
        yield at
    finally:
        run(("umount", "-l", str(at)), timeout=20)


def test_a_full_disk_is_told_and_works_again(mount: ShareMount, host: Path) -> None:
    with disk(host / "small"):
        guest = mount.path(host / "small")
        (guest / "kept").write_bytes(b"k" * 100_000)
        with pytest.raises(OSError) as full:
            (guest / "large").write_bytes(b"x" * 4 * MIB)
        assert full.value.errno == errno.ENOSPC
        with pytest.raises(OSError) as refused, (guest / "kept").open("ab") as file:
            file.write(b"y" * MIB)
        assert refused.value.errno == errno.ENOSPC
        assert (guest / "kept").read_bytes()[:100_000] == b"k" * 100_000
        assert os.statvfs(guest).f_bavail == os.statvfs(host / "small").f_bavail == 0
        assert (guest / "large").stat().st_size == (host / "small/large").stat().st_size
        (guest / "large").unlink()
        (guest / "again").write_bytes(b"z" * MIB)
        assert (host / "small/again").read_bytes() == b"z" * MIB


def test_a_disk_without_room_for_names(mount: ShareMount, host: Path) -> None:
    with disk(host / "few", "size=2m,nr_inodes=20,mode=755"):
        guest = mount.path(host / "few")
        made = []
        with pytest.raises(OSError) as full:
            for number in range(30):
                (guest / f"{number}").write_text("x")
                made.append(f"{number}")
        assert full.value.errno == errno.ENOSPC
        with pytest.raises(OSError) as refused:
            (guest / "folder").mkdir()
        assert refused.value.errno == errno.ENOSPC
        assert sorted(os.listdir(guest)) == sorted(made) == sorted(os.listdir(host / "few"))
        (guest / "0").unlink()
        (guest / "folder").mkdir()


def test_a_disk_that_becomes_read_only(mount: ShareMount, host: Path) -> None:
    with disk(host / "small") as small:
        guest = mount.path(small)
        (guest / "file").write_text("before")
        # Busy until the server has closed the file, which nobody who closes it waits for.
        assert soon(lambda: run(("mount", "-o", "remount,ro", str(small)), timeout=20).status == 0)
        assert (guest / "file").read_text() == "before"
        for refused in (
            lambda: (guest / "file").write_text("after"),
            lambda: (guest / "new").write_text("new"),
            lambda: (guest / "folder").mkdir(),
            lambda: (guest / "file").unlink(),
            lambda: (guest / "file").rename(guest / "moved"),
            lambda: (guest / "file").chmod(0o600),
        ):
            with pytest.raises(OSError) as told:
                refused()
            assert told.value.errno == errno.EROFS
        run(("mount", "-o", "remount,rw", str(small)), timeout=20).check()
        (guest / "file").write_text("after")
        assert (small / "file").read_text() == "after"


def test_a_disk_can_be_taken_out_while_other_folders_change(mount: ShareMount, host: Path) -> None:
    """What the guest has looked at, and does not use, is not held for as long as anything happens at all."""
    with disk(host / "stick") as stick:
        (stick / "folder").mkdir()
        (stick / "folder/file").write_text("seen")
        assert run(("find", str(mount.path(host))), timeout=20).check().out.endswith("folder/file")
        end = time.monotonic() + 40
        while run(("umount", str(stick)), timeout=20).status:
            assert time.monotonic() < end, "it is still held"
            (host / "changed").write_text(str(time.monotonic()))
            assert soon(lambda: "changed" in os.listdir(mount.path(host)))
            time.sleep(0.1)
        assert soon(lambda: os.listdir(mount.path(stick)) == [])


def test_a_shared_folder_that_goes_and_comes_back(tmp_path: Path) -> None:
    """Not only what is in it: the share itself."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_text("before")
    with ShareMount(tmp_path, {root: True}) as mount:
        guest = mount.path(root)
        assert (guest / "file").read_text() == "before"
        root.rename(tmp_path / "elsewhere")
        assert soon(lambda: not _is_there(guest / "file"))
        with pytest.raises(OSError):
            (guest / "new").write_text("nowhere")
        assert os.listdir(tmp_path / "elsewhere") == ["file"]
        (tmp_path / "elsewhere").rename(root)
        assert soon(lambda: (guest / "file").read_text() == "before")
        for path in (root / "file", root):
            path.unlink() if path.is_file() else path.rmdir()
        assert soon(lambda: not _is_there(guest / "file"))
        root.mkdir()
        (root / "file").write_text("another folder of that name")
        assert soon(lambda: (guest / "file").read_text() == "another folder of that name")
        (guest / "new").write_text("new")
        assert (root / "new").read_text() == "new"


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def test_another_folder_comes_to_be_on_the_way_to_a_share(tmp_path: Path) -> None:
    """The way is not asked for each time: each folder on it is watched."""
    (tmp_path / "m").mkdir()
    root = tmp_path / "above/way/root"
    root.mkdir(parents=True)
    (root / "a").write_text("one")
    with ShareMount(tmp_path / "m", {root: True}) as mount:
        guest = mount.path(root)
        assert (guest / "a").read_text() == "one"
        mount.settled()
        before = mount.asked()
        assert (guest / "a").read_text() == "one"
        assert mount.asked() == before, "nothing is asked for, not even on the way"
        for number, moved in enumerate(("above", "above/way", "above/way/root", "above")):
            (tmp_path / moved).rename(tmp_path / f"gone-{number}")
            assert soon(lambda: not _is_there(guest / "a"))
            root.mkdir(parents=True)
            (root / "a").write_text(f"new {number}")
            assert soon(lambda number=number: (guest / "a").read_text() == f"new {number}")
            (root / "a").write_text(f"newer {number}")
            assert soon(lambda number=number: (guest / "a").read_text() == f"newer {number}")


def test_a_folder_that_leads_to_a_share_and_is_in_another(tmp_path: Path) -> None:
    """Mounted there, so the two are one to the system: either is told of what it wants to know."""
    for name in ("m", "a/root", "other/a"):
        (tmp_path / name).mkdir(parents=True)
    run(("mount", "--bind", str(tmp_path / "a"), str(tmp_path / "other/a")), timeout=20).check()
    try:
        with ShareMount(tmp_path / "m", {tmp_path / "a/root": True, tmp_path / "other": True}) as mount:
            guest, other = mount.path(tmp_path / "a/root"), mount.path(tmp_path / "other/a")
            for first, second in ((guest, other), (other, guest)):
                os.listdir(first)
                os.listdir(second)
                (tmp_path / "a/file").write_text("one")
                assert soon(lambda: (other / "file").read_text() == "one")
                (tmp_path / "a/file").write_text("two")
                assert soon(lambda: (other / "file").read_text() == "two")
                (tmp_path / "a/root").rename(tmp_path / "a/moved")
                assert soon(lambda: not _is_there(guest) and (other / "moved").is_dir())
                (tmp_path / "a/moved").rename(tmp_path / "a/root")
                assert soon(lambda: _is_there(guest) and not (other / "moved").exists())
    finally:
        run(("umount", "-l", str(tmp_path / "other/a")), timeout=20)


def test_a_disk_that_is_unplugged(mount: ShareMount, host: Path) -> None:
    """The folder below it shows, and the disk when it is back; the same server goes on all the time."""
    before = mount.server_pid
    (host / "stick").mkdir()
    (host / "stick/below").write_text("below")
    with disk(host / "stick"):
        guest = mount.path(host / "stick")
        (guest / "file").write_text("on the stick")
        assert os.listdir(guest) == ["file"]
    assert soon(lambda: (guest / "below").read_text() == "below")
    assert os.listdir(guest) == ["below"]
    with disk(host / "stick"):
        (host / "stick/other").write_text("another stick")
        assert soon(lambda: os.listdir(guest) == ["other"])
        assert (guest / "other").read_text() == "another stick"
    mount.settled()
    assert mount.server_pid == before


# Busy with other changes while a disk comes and goes, and it lets no folder go by itself.
_BUSY = """
import sys
from proa.shares import __main__, coherence
coherence.GATHERED = coherence.OWN_GATHERED = 1
coherence.FOLDERS_HELD = 600
sys.exit(__main__.main(sys.argv))
"""


def test_a_disk_that_came_and_went_before_it_was_looked_at(tmp_path: Path) -> None:
    """And one that was swapped: the table of mounts is the same before and after."""
    slot = tmp_path / "root/slot"
    slot.mkdir(parents=True)
    (slot / "below").write_text("below")
    with ShareMount(tmp_path, {tmp_path / "root": True}, server=("-c", _BUSY)) as mount:
        guest = mount.path(slot)

        def begin() -> None:
            (tmp_path / "root/other").write_text("x")
            mount.settled()

        begin()
        with disk(slot):
            (guest / "file").write_text("of the guest")
            assert os.listdir(guest) == ["file"]
        assert soon(lambda: (guest / "below").read_text() == "below")
        with disk(slot):
            (slot / "first").touch()
            assert soon(lambda: os.listdir(guest) == ["first"])
            begin()
        with disk(slot):
            (slot / "second").touch()
            assert soon(lambda: os.listdir(guest) == ["second"])


@pytest.mark.long
def test_a_hundred_thousand_files(mount: ShareMount, host: Path) -> None:
    count, each = 100_000, 1000
    for folder in range(count // each):
        (host / f"{folder}").mkdir()
        for number in range(each):
            os.close(os.open(host / f"{folder}/{number}", os.O_CREAT | os.O_WRONLY))
    mount.settled()
    top = os.open(mount.path(host), os.O_RDONLY)
    seen = 0
    for _, _, names, _ in os.fwalk(".", dir_fd=top):
        seen += len(names)
    assert seen == count
    os.close(top)
    assert mount.resident() < 250
    (host / "50/new").write_text("new")
    assert soon(lambda: (mount.path(host) / "50/new").read_text() == "new")
    (host / "99/999").unlink()
    assert soon(lambda: not _is_there(mount.path(host) / "99/999"))
