"""The server is killed, at any moment: what the guest has open goes on, and nothing is lost or done twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from proa.shares.nodes import Node, Nodes, Root
from proa.shares.protocol import Op
from proa.shares.records import Known
from tests.support.mount_events import Events
from tests.support.share_mounts import ShareMount, exists, soon
from tests.unit.shares.test_mount_disks import disk

pytestmark = [pytest.mark.timeout(60)]

# A server that is killed when it has carried out a request of some kind, before it says so; once.
_KILLED = """
import os, signal, sys
from proa.shares import __main__ as process
from proa.shares.server import Server

done = {done!r}
carry_out = Server._carry_out
def carried_out(self, request):
    found = carry_out(self, request)
    if request.op == {op} and not found[0] and not os.path.exists(done):
        os.close(os.open(done, os.O_CREAT | os.O_WRONLY))
        os.kill(os.getpid(), signal.SIGKILL)
    return found
Server._carry_out = carried_out
sys.exit(process.main(["", sys.argv[1]]))
"""


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[Callable[[Op], ShareMount]]:
    """A mount whose server is killed at its first request of a kind; another goes on."""
    opened: list[ShareMount] = []

    def make(op: Op) -> ShareMount:
        (tmp_path / "root").mkdir()
        program = _KILLED.format(done=str(tmp_path / "state/killed"), op=int(op))
        mount = ShareMount(tmp_path, {tmp_path / "root": True}, server=("-c", program), codes=(-9,))
        mount.open()
        opened.append(mount)
        return mount

    yield make
    for mount in opened:
        mount.close()


def _append(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(b"line\n")


_CALLS: dict[str, tuple[Op, Callable[[Path], object], Callable[[Path], bool]]] = {
    "mkdir": (Op.MKDIR, lambda at: (at / "new").mkdir(), lambda at: (at / "new").is_dir()),
    "mkfifo": (Op.MKNOD, lambda at: os.mkfifo(at / "new"), lambda at: (at / "new").is_fifo()),
    "symlink": (Op.SYMLINK, lambda at: (at / "new").symlink_to("to"), lambda at: (at / "new").is_symlink()),
    "link": (Op.LINK, lambda at: os.link(at / "file", at / "new"), lambda at: (at / "new").is_file()),
    "unlink": (Op.UNLINK, lambda at: (at / "file").unlink(), lambda at: not exists(at / "file")),
    "rmdir": (Op.RMDIR, lambda at: (at / "folder").rmdir(), lambda at: not exists(at / "folder")),
    "rename": (
        Op.RENAME2,
        lambda at: os.rename(at / "file", at / "folder/to"),
        lambda at: (at / "folder/to").read_bytes() == b"line\n" and not exists(at / "file"),
    ),
    "setxattr": (
        Op.SETXATTR,
        lambda at: os.setxattr(at / "file", "user.new", b"x", os.XATTR_CREATE),
        lambda at: os.getxattr(at / "file", "user.new") == b"x",
    ),
    "removexattr": (
        Op.REMOVEXATTR,
        lambda at: os.removexattr(at / "file", "user.old"),
        lambda at: os.listxattr(at / "file") == [],
    ),
    "create": (
        Op.CREATE,
        lambda at: (at / "new").open("x").close(),
        lambda at: (at / "new").read_bytes() == b"",
    ),
    "append": (
        Op.WRITE,
        lambda at: _append(at / "file"),
        lambda at: (at / "file").read_bytes() == b"line\n" * 2,
    ),
}


@pytest.mark.parametrize("name", _CALLS)
def test_what_was_done_before_the_kill_is_not_done_again(
    killed: Callable[[Op], ShareMount], name: str
) -> None:
    op, call, holds = _CALLS[name]
    # Some kernels have an operation less.
    mount = killed(Op.RENAME if name == "rename" else op)
    host = mount.folder / "root"
    (host / "folder").mkdir()
    (host / "file").write_bytes(b"line\n")
    os.setxattr(host / "file", "user.old", b"x")
    guest = mount.path(host)
    call(guest)
    assert (mount.folder / "state/killed").exists(), "the server was killed in it"
    assert holds(guest)
    assert holds(host)


def test_what_is_open_goes_on(mount: ShareMount, host: Path) -> None:
    guest = mount.path(host)
    (host / "in/deep").mkdir(parents=True)
    (host / "in/deep/file").write_text("one")
    folder = os.open(guest / "in/deep", os.O_RDONLY)
    try:
        with (guest / "in/deep/file").open("r+") as file:
            assert file.read() == "one"
            mount.kill_server()
            (host / "in").rename(host / "moved")
            (host / "moved/deep/file").write_text("two!")
            (host / "moved/deep/new").write_text("")
            mount.start_server(fresh=False)
            mount.connect()
            assert sorted(os.listdir(folder)) == ["file", "new"]
            assert os.stat("file", dir_fd=folder).st_size == 4
            file.seek(0)
            assert soon(lambda: file.seek(0) == 0 and file.read() == "two!")
            file.write(" and more")
            file.flush()
            assert (host / "moved/deep/file").read_text() == "two! and more"
    finally:
        os.close(folder)
    assert soon(lambda: exists(guest / "moved/deep/new") and not exists(guest / "in"))


def test_who_watches_hears_on(mount: ShareMount, host: Path) -> None:
    """Also of what happened meanwhile, and not of what did not."""
    guest = mount.path(host)
    for name in ("same", "changed", "own"):
        (host / name).write_text("one")
    events = Events(guest)
    try:
        for name in os.listdir(guest):
            (guest / name).read_text()
        (guest / "own").write_text("by the guest")
        mount.settled()
        assert "own" in events.names(), "by the guest's own kernel"
        events.seen.clear()
        mount.kill_server()
        (host / "changed").write_text("two")
        (host / "new").write_text("x")
        mount.start_server(fresh=False)
        mount.connect()
        mount.settled()
        (host / "after").write_text("x")
        assert soon(lambda: events.names() >= {"changed", "new", "after"})
        assert events.names() == {"changed", "new", "after"}
    finally:
        events.close()


def test_files_are_forgotten_in_the_end(tmp_path: Path) -> None:
    """How often the guest knows a file is not known any more, but it gives that back all at once."""
    host = tmp_path / "root"
    host.mkdir()
    for number in range(50):
        (host / str(number)).write_text("x")
    with ShareMount(tmp_path, {host: True}) as mount:
        guest = mount.path(host)
        for _ in range(3):
            for number in range(50):
                (guest / str(number)).stat()
        mount.kill_server()
        mount.start_server(fresh=False)
        mount.connect()
        known = mount.settled()["nodes"]
        assert known > 50
        for number in range(50):
            (guest / str(number)).read_text()
            (guest / str(number)).unlink()
        assert soon(lambda: mount.status()["nodes"] <= known - 50)


def test_what_was_told_ahead_of_the_kill_is_not_forgotten_twice() -> None:
    """The relay gives back what nobody asked for; the kernel may know the same file by a listing."""
    nodes = Nodes(8)
    node = Node(7, (1, 2, 8), Root(b"/root"), uncounted=True)
    nodes.restore({7: node}, 8)
    nodes.forget(7, 1, unused=True)
    assert nodes.get(7) is node, "told of by the server that was killed, which has counted it"
    nodes.again(node)
    nodes.forget(7, 1, unused=True)
    assert nodes.get(7) is node, "told of since: the rest is the kernel's"
    nodes.forget(7, 1)
    assert nodes.get(7) is None


@pytest.mark.long
def test_a_long_journal_is_begun_anew(mount: ShareMount, host: Path) -> None:
    guest = mount.path(host)
    name = "n" * 200
    first = mount.state.stat()
    for _ in range(400):
        for number in range(40):
            (guest / f"{name}{number}").touch()
            (guest / f"{name}{number}").unlink()
        if mount.state.stat().st_ino != first.st_ino:
            break
    assert mount.state.stat().st_ino != first.st_ino, "it is another file by now"
    assert mount.state.stat().st_size < 2 * first.st_size
    (guest / "last").write_text("x")
    with (guest / "last").open() as file:
        mount.kill_server()
        mount.start_server(fresh=False)
        mount.connect()
        assert file.read() == "x"


@pytest.mark.parametrize("torn", (1, 10, 100))
def test_a_torn_last_line_costs_that_line(mount: ShareMount, host: Path, torn: int) -> None:
    """Wherever it was copied to by then, what is missing of it is zeros."""
    guest = mount.path(host)
    (guest / "kept").write_text("x")
    with (guest / "kept").open() as file:
        mount.kill_server()
        content = mount.state.read_bytes()
        end = content.index(b"\0")
        line = msgspec.json.encode(Known(1 << 40, (1, 2, 8), None, "x" * 200, False)) + b"\n"
        part = line[:torn] + bytes(len(line) - torn - 1) + line[-1:]
        mount.state.write_bytes(content[:end] + part + content[end + len(line) :])
        mount.start_server(fresh=False)
        mount.connect()
        assert file.read() == "x"


def test_a_journal_without_room_is_done_without(mount: ShareMount, host: Path) -> None:
    """On a full disk the server works on; only a kill costs what is open then."""
    guest = mount.path(host)
    mount.stop_server()
    folder = mount.state.parent
    with disk(folder, "size=64k,mode=700"):
        mount.start_server(fresh=True)
        mount.connect()
        assert not mount.state.exists()
        (guest / "file").write_text("x")
        assert (host / "file").read_text() == "x"
        assert "cannot be written down" in (mount.folder / "server.log").read_text()
        mount.kill_server()
        mount.start_server(fresh=False)
        mount.connect()
        assert (guest / "file").read_text() == "x"
        mount.stop_server()
    mount.start_server(fresh=False)
    mount.connect()
    assert (guest / "file").read_text() == "x"
