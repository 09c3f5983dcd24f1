"""A hostile guest speaks frames by itself: nothing outside the shares is read or changed by it."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if sys.platform == "win32":
    pytest.skip("the share server is for POSIX systems", allow_module_level=True)

from proa.shares import protocol, state
from proa.shares.journal import Journal
from proa.shares.nodes import Root
from proa.shares.operations import Operations
from proa.shares.protocol import FrameError, Op, Refused
from proa.shares.server import Answers, Server
from proa.shares.tree import Allowed, Tree

pytestmark = [pytest.mark.timeout(120)]
SECRET = b"canary"


class Client:
    """A guest's side of a stream, without a kernel in front of it."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self.unique = 0

    def ask(self, op: int, node: int, body: bytes = b"") -> tuple[int, bytes]:
        """Linux' number of the error, and the body."""
        self.unique += 2
        head = protocol.IN_HEADER.pack(40 + len(body), op, self.unique, node, 0, 0, 0, 0, 0)
        self.stream.sendall(head + body)
        length, error, unique = protocol.OUT_HEADER.unpack(self._exactly(16))
        assert unique == self.unique
        return -error, self._exactly(length - 16)

    def _exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            data = self.stream.recv(size - len(found))
            if not data:
                raise EOFError
            found += data
        return found

    def look_up(self, node: int, *names: bytes) -> int:
        for name in names:
            error, body = self.ask(Op.LOOKUP, node, name + b"\0")
            if error:
                raise OSError(error, os.strerror(error))
            node = int.from_bytes(body[:8], "little")
        return node


class Place:
    """A server in this process, a share, and what lies outside of it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.outside = folder / "share", folder / "share-evil"
        for made in (self.root, self.outside, self.root / "keys"):
            made.mkdir()
        self.canaries = [self.outside / "canary", self.root / "keys/canary"]
        for canary in self.canaries:
            canary.write_bytes(SECRET)
        allowed = Allowed((Root(os.fsencode(self.root)),), (os.fsencode(self.root / "keys"),))
        self.operations = Operations(Tree(allowed, most_folders=64))
        self.server = Server(self.operations)
        self.client = self.connect()

    def connect(self) -> Client:
        ours, theirs = socket.socketpair()
        ours.settimeout(20)
        self.server.serve(theirs)
        self.client = Client(ours)
        return self.client

    def top(self) -> int:
        return self.client.look_up(1, *os.fsencode(self.root).split(b"/")[1:])

    def untouched(self) -> None:
        for canary in self.canaries:
            assert canary.read_bytes() == SECRET
        assert sorted(os.listdir(self.outside)) == ["canary"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    found.client.stream.close()
    found.server.close()
    found.untouched()


@pytest.mark.parametrize("name", [b"..", b".", b"/etc", b"a/b", b"../share-evil", b"", b"/"])
@pytest.mark.parametrize("op", [Op.LOOKUP, Op.UNLINK, Op.RMDIR, Op.MKDIR, Op.SYMLINK, Op.CREATE, Op.RENAME])
def test_a_name_that_no_kernel_sends_ends_the_stream(place: Place, name: bytes, op: Op) -> None:
    top = place.top()
    before = {Op.MKDIR: bytes(8), Op.CREATE: bytes(16), Op.RENAME: struct.pack("<Q", top)}.get(op, b"")
    with pytest.raises((EOFError, ConnectionError)):
        place.client.ask(op, top, before + name + b"\0" + b"x\0")
    place.connect()
    assert place.top(), "and only that stream"


def test_a_neighbour_with_the_same_beginning_is_not_there(place: Place) -> None:
    parent = place.client.look_up(1, *os.fsencode(place.root.parent).split(b"/")[1:])
    for name in (b"share-evil", b"etc", b"share "):
        assert place.client.ask(Op.LOOKUP, parent, name + b"\0")[0] == 2


def test_what_was_never_given_out_is_not_known(place: Place) -> None:
    read = struct.pack("<QQIIQII", 12345, 0, 100, 0, 0, 0, 0)
    for node in (0, 2**63, 99, 2**64 - 1):
        assert place.client.ask(Op.GETATTR, node, bytes(16))[0] == 116
        assert place.client.ask(Op.READ, node, read)[0] == 9
    top = place.top()
    for number in (0, 2**64 - 1, 77):
        body = struct.pack("<QIIQ", number, 0, 0, 0)
        assert place.client.ask(Op.RELEASE, top, body)[0] == 0
        assert place.client.ask(Op.READ, top, struct.pack("<QQIIQII", number, 0, 9, 0, 0, 0, 0))[0] == 9


def test_a_slow_answer_does_not_hold_up_others(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than once: whoever reads now is held up too."""
    going_on = threading.Event()
    slow = {Op.STATFS: lambda request: going_on.wait(20) and b""}
    monkeypatch.setattr(place.operations, "_answers", {**place.operations._answers, **slow})
    top = place.top()
    for number in range(3):
        head = protocol.IN_HEADER.pack(40, Op.STATFS, 1001 + 2 * number, top, 0, 0, 0, 0, 0)
        place.client.stream.sendall(head)
        assert place.client.ask(Op.GETATTR, top, bytes(16))[0] == 0
    going_on.set()
    answered = {protocol.OUT_HEADER.unpack(place.client._exactly(16))[2] for _ in range(3)}
    assert answered == {1001, 1003, 1005}


def test_a_handle_is_closed_once(place: Place) -> None:
    (place.root / "a").write_bytes(b"content")
    node = place.client.look_up(place.top(), b"a")
    _, body = place.client.ask(Op.OPEN, node, struct.pack("<II", 0, 0))
    number = int.from_bytes(body[:8], "little")
    release = struct.pack("<QIIQ", number, 0, 0, 0)
    for _ in range(2):
        assert place.client.ask(Op.RELEASE, node, release)[0] == 0
    assert place.client.ask(Op.READ, node, struct.pack("<QQIIQII", number, 0, 9, 0, 0, 0, 0))[0] == 9
    assert not place.operations.handles.held


def test_a_link_is_not_followed(place: Place) -> None:
    (place.root / "link").symlink_to(place.outside / "canary")
    (place.root / "folder").symlink_to(place.outside)
    top = place.top()
    link, folder = place.client.look_up(top, b"link"), place.client.look_up(top, b"folder")
    assert place.client.ask(Op.OPEN, link, struct.pack("<II", os.O_RDWR, 0))[0] == 6
    assert place.client.ask(Op.LOOKUP, folder, b"canary\0")[0] == 20
    assert place.client.ask(Op.CREATE, folder, struct.pack("<4I", 1, 0o644, 0, 0) + b"new\0")[0] == 20
    truncated = struct.pack("<IIQQQQQQIIIIIIIIII", 8, 0, *[0] * 6, *[0] * 10)[:88]
    assert place.client.ask(Op.SETATTR, link, truncated)[0] != 0


def test_what_is_never_shared_may_be_made_later(tmp_path: Path) -> None:
    """Its folder too: it is not there when the server learns of it."""
    root = tmp_path / "home"
    root.mkdir()
    tree = Tree(Allowed((Root(os.fsencode(root)),), (os.fsencode(root / ".config/cloud"),)), most_folders=8)
    node = tree.nodes.top
    for name in os.fsencode(root).split(b"/")[1:]:
        node, _ = tree.look_up(node, name)
    for _ in range(2):
        (root / ".config/cloud").mkdir(parents=True)
        config, _ = tree.look_up(node, b".config")
        with pytest.raises(Refused):
            tree.look_up(config, b"cloud")
        assert tree.hides(config, b"cloud")
        shutil.move(root / ".config", tmp_path / "away")
        shutil.rmtree(tmp_path / "away")


@pytest.mark.parametrize("kind", (stat.S_IFBLK, stat.S_IFCHR, stat.S_IFDIR, stat.S_IFLNK, 0))
def test_no_device_is_made(place: Place, kind: int) -> None:
    body = struct.pack("<IIII", kind | 0o666, 0x800, 0, 0) + b"disk\0"
    assert place.client.ask(Op.MKNOD, place.top(), body)[0] == 1
    assert not (place.root / "disk").exists()


@pytest.mark.parametrize("length", (0, 39, 1 << 31, 0xFFFFFFFF, protocol.MAX_FRAME + 1))
def test_a_frame_of_impossible_length_ends_the_stream(place: Place, length: int) -> None:
    place.client.stream.sendall(length.to_bytes(4, "little") + bytes(36))
    assert place.client.stream.recv(1) == b""
    place.connect()
    assert place.top()


def test_many_open_files_are_bounded(place: Place) -> None:
    (place.root / "a").write_bytes(b"x")
    node = place.client.look_up(place.top(), b"a")
    place.operations.handles.held.update(dict.fromkeys(range(10**6, 10**6 + 65536)))  # type: ignore[arg-type]
    assert place.client.ask(Op.OPEN, node, struct.pack("<II", 0, 0))[0] == 24
    place.operations.handles.held.clear()


def test_an_open_file_does_not_stand_for_another(place: Place) -> None:
    """A truncation names a file and what is open of it; they are two files here."""
    for name in ("a", "b"):
        (place.root / name).write_bytes(b"content")
    first, second = (place.client.look_up(place.top(), name) for name in (b"a", b"b"))
    _, body = place.client.ask(Op.OPEN, second, struct.pack("<II", os.O_RDWR, 0))
    handle = int.from_bytes(body[:8], "little")
    flags = protocol.SetAttr.SIZE | protocol.SetAttr.FH
    truncated = struct.pack("<I4xQQQQQQIIII4xII4x", flags, handle, 3, *[0] * 10)
    assert place.client.ask(Op.SETATTR, first, truncated)[0] == 0
    assert (place.root / "a").read_bytes() == b"con"
    assert (place.root / "b").read_bytes() == b"content"


def _is_open(path: Path) -> bool:
    """Whether this process has a descriptor of it."""
    return str(path) in {
        os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()
    }


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc for what is open")
def test_what_is_no_more_shared_is_closed_and_said(place: Place) -> None:
    (place.root / "a").write_bytes(b"content")
    top = place.top()
    node = place.client.look_up(top, b"a")
    _, body = place.client.ask(Op.OPEN, node, struct.pack("<II", 0, 0))
    file = int.from_bytes(body[:8], "little")
    _, body = place.client.ask(Op.OPENDIR, top, bytes(8))
    folder = int.from_bytes(body[:8], "little")
    assert _is_open(place.root / "a") and _is_open(place.root)

    place.operations.tree.allow(Allowed())
    place.operations.handles.follow_shares()
    assert not _is_open(place.root / "a") and not _is_open(place.root)
    reads = [
        (Op.READ, node, file),
        (Op.READDIR, top, folder),
        (Op.READDIRPLUS, top, folder),
    ]
    for op, of, number in reads:
        assert place.client.ask(op, of, struct.pack("<QQIIQII", number, 0, 4096, 0, 0, 0, 0))[0] == 13
    for number in (file, folder):
        assert place.client.ask(Op.RELEASE, top, struct.pack("<QIIQ", number, 0, 0, 0))[0] == 0
    assert place.client.ask(Op.READ, node, struct.pack("<QQIIQII", file, 0, 9, 0, 0, 0, 0))[0] == 9

    place.operations.tree.allow(Allowed((Root(os.fsencode(place.root)),)))
    assert place.client.look_up(top, b"a") == node, "and it may be shared again"


def test_what_is_closed_is_known_to_the_next_server(place: Place, tmp_path: Path) -> None:
    (place.root / "a").write_bytes(b"content")
    node = place.client.look_up(place.top(), b"a")
    _, body = place.client.ask(Op.OPEN, node, struct.pack("<II", 0, 0))
    number = int.from_bytes(body[:8], "little")
    place.operations.tree.allow(Allowed())
    place.operations.handles.follow_shares()
    journal = Journal()
    journal.begin(tmp_path / "state", lambda: ())
    journal.end(state.present(place.operations, place.server.answers, ended=True))

    later = Operations(Tree(Allowed(), most_folders=64))
    state.load(tmp_path / "state", later, Answers(), {})
    with pytest.raises(Refused, match="EACCES"):
        later.handles.file(number)
    later.tree.allow(Allowed((Root(os.fsencode(place.root)),)))
    later.handles.follow_shares()
    assert os.pread(later.handles.file(number).file.number, 100, 0) == b"content"


def _race(place: Place, seconds: float) -> None:
    """A folder is a link to the outside, and a folder again, while the client works below it."""
    (place.root / "real").mkdir()
    over = threading.Event()

    def swap() -> None:
        rounds = itertools.count()
        while not over.is_set():
            old = place.root / f"real/{next(rounds)}"
            os.symlink(place.outside, place.root / "swapped")
            os.unlink(place.root / "swapped")
            (place.root / "swapped").mkdir()
            (place.root / "swapped/canary").write_bytes(b"inside")
            os.rename(place.root / "swapped", old)
            shutil.rmtree(old, ignore_errors=True)  # the client may be making something in it

    thread = threading.Thread(target=swap)
    thread.start()
    chance = random.Random(1)
    top, tried, deadline = place.top(), 0, time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            tried += 1
            error, body = place.client.ask(Op.LOOKUP, top, b"swapped\0")
            if error:
                continue
            folder = int.from_bytes(body[:8], "little")
            _attack(place.client, folder, chance)
            place.client.stream.sendall(
                protocol.IN_HEADER.pack(48, Op.FORGET, 0, folder, 0, 0, 0, 0, 0) + struct.pack("<Q", 1)
            )
    finally:
        over.set()
        thread.join()
    assert tried > 100
    place.untouched()


def _attack(client: Client, folder: int, chance: random.Random) -> None:
    way = chance.randrange(4)
    if way == 0:
        error, body = client.ask(Op.LOOKUP, folder, b"canary\0")
        if not error:
            node = int.from_bytes(body[:8], "little")
            error, body = client.ask(Op.OPEN, node, struct.pack("<II", os.O_RDWR, 0))
            if not error:
                number = int.from_bytes(body[:8], "little")
                _, read = client.ask(Op.READ, node, struct.pack("<QQIIQII", number, 0, 99, 0, 0, 0, 0))
                assert SECRET not in read
                client.ask(Op.WRITE, node, struct.pack("<QQIIQII", number, 0, 4, 0, 0, 0, 0) + b"evil")
                client.ask(Op.RELEASE, node, struct.pack("<QIIQ", number, 0, 0, 0))
    elif way == 1:
        client.ask(Op.UNLINK, folder, b"canary\0")
    elif way == 2:
        client.ask(Op.CREATE, folder, struct.pack("<4I", 2, 0o644, 0, 0) + b"evil\0")
    else:
        client.ask(Op.MKDIR, folder, struct.pack("<II", 0o755, 0) + b"evil\0")


def test_a_race_with_links_leads_nowhere(place: Place) -> None:
    _race(place, 3)


@pytest.mark.long
def test_a_race_with_links_leads_nowhere_for_a_minute(place: Place) -> None:
    _race(place, 60)


# -- frames ----------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_an_error(data: bytes) -> None:
    try:
        request = protocol.read_request(memoryview(data))
    except FrameError:
        return
    assert len(request.body) <= len(data)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(Op)), st.integers(0, 5), st.binary(max_size=120))
def test_any_body_is_answered_or_refused(fuzzed: Operations, op: int, node: int, body: bytes) -> None:
    request = protocol.Request(op, 2, node, 0, 0, 0, memoryview(body))
    try:
        answer = fuzzed.answer(request)
    except (FrameError, Refused, OSError, ValueError, OverflowError):
        return
    assert answer is None or isinstance(answer, (bytes, memoryview))


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Operations:
    folder = tmp_path_factory.mktemp("fuzzed")
    (folder / "a").write_text("a")
    operations = Operations(Tree(Allowed((Root(os.fsencode(folder)),)), most_folders=8))
    tree, node = operations.tree, operations.tree.nodes.top
    for name in os.fsencode(folder).split(b"/")[1:]:
        node, _ = tree.look_up(node, name)
    return operations


def test_a_kernel_that_is_too_old_is_refused() -> None:
    with pytest.raises(Refused):
        protocol.answer_init(memoryview(struct.pack("<4I", 7, 30, 0, 0)))
    agreed = protocol.answer_init(memoryview(struct.pack("<4I", 7, 31, 0, 0)))
    assert agreed.minor == 31
    assert not agreed.flags


@given(st.integers(-(2**62), 2**62), st.integers(0, 2**63 - 1))
def test_times_and_sizes_of_any_age_are_packed(when: int, size: int) -> None:
    shown = protocol.Attributes(1, size, 0, when, when, when, 0o100644, 1, 0, 0, 0, 4096)
    fields = protocol.ATTR.unpack(shown.pack())
    seconds = fields[4] - (1 << 64) if fields[4] >> 63 else fields[4]
    assert seconds * 10**9 + fields[7] == when
    assert fields[1] == size
