"""Links that the server makes up for paths that lead through absolute links, on a real mount."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from proa.model.link_path import FOLDER, to_link
from tests.support.share_mounts import ShareMount


def made_up(mount: ShareMount, path: Path | str) -> Path:
    link = to_link(str(path))
    assert link is not None
    return mount.place / FOLDER / link.rpartition("/")[2]


def test_it_leads_where_the_path_does_each_time_anew(mount: ShareMount, host: Path) -> None:
    for name in ("one", "two"):
        (host / name).mkdir()
        (host / name / "file").write_text(name)
    (host / "current").symlink_to(host / "one")
    (host / "second").symlink_to("current")
    link = made_up(mount, host / "second")
    assert link.is_symlink() and (link / "file").read_text() == "one"
    assert link.resolve() == mount.path(host / "one")
    (host / "current").unlink()
    (host / "current").symlink_to(host / "two")
    assert (link / "file").read_text() == "two", "at once: it is read each time"
    assert made_up(mount, host / "second/file").read_text() == "two"
    (host / "current").unlink()
    with pytest.raises(FileNotFoundError):
        (link / "file").read_text()


def test_one_above_all_shares_is_followed(mount: ShareMount, host: Path) -> None:
    (host / "file").write_text("here")
    beside = mount.folder / f"beside-{host.name}"
    beside.symlink_to(host)
    assert (made_up(mount, beside) / "file").read_text() == "here"


def test_nothing_is_told_of_what_is_not_shared(
    mount: ShareMount, host: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = next(iter(mount.roots))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "back").symlink_to(host)  # it leads into a share, and lies in none
    (host / "around").symlink_to(elsewhere / "back")
    (host / "out").symlink_to(elsewhere)
    (host / "keys").symlink_to(root / "keys")
    (host / "loop").symlink_to(host / "loop")
    (host / "file").write_text("file")
    paths = (
        *(host / name for name in ("around", "out", "keys", "keys/secret", "loop", "file/below")),
        elsewhere / "back",
        elsewhere,
        root / "keys/secret",
        mount.folder / "root-evil/canary",
        "/etc/passwd",
        f"{host}/../../../../../../../etc/passwd",
    )
    for path in paths:
        with pytest.raises(OSError) as raised:
            os.readlink(made_up(mount, path))
        assert raised.value.errno in (errno.ENOENT, errno.ENOTDIR), path


def test_the_folder_shows_nothing_and_takes_nothing(mount: ShareMount) -> None:
    assert FOLDER not in os.listdir(mount.place)
    assert os.listdir(mount.place / FOLDER) == []
    for name in ("no-path", "%2fhome", "x" * 900):
        assert not (mount.place / FOLDER / name).exists()
    with pytest.raises(OSError, match="Read-only file system"):
        (mount.place / FOLDER / "new").mkdir()
    with pytest.raises(OSError, match="Read-only file system"):
        (mount.place / FOLDER / "new").symlink_to("/etc")


def test_it_goes_on_with_another_server(mount: ShareMount, host: Path) -> None:
    (host / "folder").mkdir()
    (host / "folder/file").write_text("one")
    (host / "link").symlink_to(host / "folder")
    link = made_up(mount, host / "link")
    handle = os.open(link, os.O_PATH | os.O_NOFOLLOW)
    try:
        assert (link / "file").read_text() == "one"
        mount.stop_server()
        mount.start_server(fresh=False)
        mount.connect()
        assert (link / "file").read_text() == "one"
        assert os.readlink("", dir_fd=handle).endswith("/folder"), "one that is held is the same link still"
    finally:
        os.close(handle)
    shutil.rmtree(host / "folder")
