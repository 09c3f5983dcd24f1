"""The server has no rights but to what is shared; when that changes another goes on, and nobody notices."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.share_mounts import ShareMount, can_confine, soon
from tests.unit.shares.test_mount_disks import disk

pytestmark = [pytest.mark.timeout(60)]

# A server with a hole: whoever opens a file with that name gets one that is not shared.
_WITH_A_HOLE = """
import os, sys
from proa.shares import __main__ as process
from proa.system import beneath

whole = beneath.open_file
def opened(parent, name, flags, mode=0o600):
    if name == b"hole":
        return beneath.Descriptor(os.open({outside!r}, os.O_RDONLY))
    return whole(parent, name, flags, mode)
beneath.open_file = opened
{more}
sys.exit(process.main(["", sys.argv[1]]))
"""


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[ShareMount]:
    """A mount of one share, `root`, for one test."""
    for name in ("root", "other"):
        (tmp_path / name).mkdir()
    with ShareMount(tmp_path, {tmp_path / "root": True}) as found:
        yield found


_NO_WAY = "from proa.shares import confined; confined.confine = lambda *_: False"
_REFUSED = "from proa.shares import confined; confined.confine = lambda *_: os.stat('/nowhere')"


@pytest.mark.parametrize("more", ("", _NO_WAY, _REFUSED), ids=("confined", "no-way", "refused"))
def test_a_hole_in_the_server_leads_nowhere(tmp_path: Path, more: str) -> None:
    """Without its limits it would read what is not shared: so the test can tell."""
    confined = not more and can_confine()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/hole").write_text("shared")
    (tmp_path / "canary").write_text("canary")
    hole = _WITH_A_HOLE.format(outside=str(tmp_path / "canary"), more=more)
    with ShareMount(tmp_path, {tmp_path / "root": True}, server=("-c", hole)) as mount:
        assert mount.status()["confined"] == confined
        guest = mount.path(tmp_path / "root")
        (guest / "plain").write_text("x")
        assert (guest / "plain").read_text() == "x"
        with pytest.raises(OSError) as refused:
            (guest / "hole").read_text()
        # EACCES of the system; without limits the server itself finds at last that it is another file.
        assert refused.value.errno == (errno.EACCES if confined else errno.ESTALE)


def test_a_share_that_is_added_is_there_at_once(alone: ShareMount) -> None:
    root, other = alone.folder / "root", alone.folder / "other"
    (other / "file").write_text("x")
    (root / "file").write_text("y")
    assert not alone.path(other).exists()
    with (alone.path(root) / "open").open("w") as file:
        file.write("before")
        file.flush()
        alone.roots = {root: True, other: False}
        alone.configure()
        file.write(" and after")
    assert (root / "open").read_text() == "before and after"
    assert (alone.path(other) / "file").read_text() == "x"
    with pytest.raises(OSError) as refused:
        (alone.path(other) / "file").write_text("z")
    assert refused.value.errno == errno.EROFS
    alone.roots = {other: True}
    alone.configure()
    (alone.path(other) / "file").write_text("z")
    assert soon(lambda: not (alone.path(root) / "file").exists())


def test_a_removed_file_stays_open_over_the_change(alone: ShareMount) -> None:
    """As databases and build tools have their temporary files."""
    root = alone.folder / "root"
    guest = alone.path(root)
    with (guest / "temporary").open("w+") as file, (guest / "by-host").open("w+") as second:
        for each in (file, second):
            each.write("kept")
            each.flush()
        (guest / "temporary").unlink()
        (root / "by-host").unlink()
        assert soon(lambda: not (guest / "by-host").exists())
        alone.roots = {root: True, alone.folder / "other": True}
        alone.configure()
        (guest / "new").write_text("another file, maybe with its number")
        for each in (file, second):
            each.write(" and more")
            each.seek(0)
            assert each.read() == "kept and more"
    assert (guest / "new").read_text() == "another file, maybe with its number"
    assert sorted(os.listdir(root)) == ["new"]


def test_a_disk_that_comes_to_be_where_a_share_begins(alone: ShareMount) -> None:
    root = alone.folder / "root"
    guest = alone.path(root)
    (root / "below").write_text("hidden soon")
    assert (guest / "below").read_text() == "hidden soon"
    with disk(root):
        (root / "on-disk").write_text("x")
        assert soon(lambda: (guest / "on-disk").read_text() == "x")
        assert soon(lambda: not (guest / "below").exists())
        (guest / "new").write_text("y")
        assert (root / "new").read_text() == "y"
    assert soon(lambda: (guest / "below").read_text() == "hidden soon")
    subprocess.run(["stat", str(guest)], check=True, timeout=20, stdout=subprocess.DEVNULL)


def test_a_shared_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    late = tmp_path / "late"
    with ShareMount(tmp_path, {tmp_path / "root": True, late: True}) as mount:
        assert not mount.path(late).exists()
        late.mkdir()
        (late / "file").write_text("x")
        assert soon(lambda: (mount.path(late) / "file").read_text() == "x")
        (mount.path(late) / "new").write_text("y")
        assert (late / "new").read_text() == "y"
