"""The share server and the guest's relay as two processes on this host, and a real mount between them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.support.commands import resident
from tests.support.spawner import Spawned, Spawner

REPOSITORY = Path(__file__).parents[2]
TIMEOUT = 20.0
# Seconds: a disk that others write to may stand still for some. How long it takes is the bench's matter.
SOON = 30.0
_RELAY = """
import os, socket, sys
from proa_guest import repeat, share
device = share.mount(sys.argv[1])
def may_be_looked_at(process):
    try:
        for handle in os.listdir(f"/proc/{process}/fd"):
            os.readlink(f"/proc/{process}/fd/{handle}")
    except PermissionError:
        return False
    except OSError:
        pass
    return True
# A guest has none that root may not look at.
unseen = [name for name in os.listdir("/proc") if name.isdigit() and not may_be_looked_at(name)]
repeater = repeat.Repeater(sys.argv[1], (device, int(sys.argv[2])), unseen)
relay = share.Relay(device, repeater, lambda text: print(text, file=sys.stderr, flush=True))
print("mounted", flush=True)
control = socket.socket(fileno=int(sys.argv[2]))
while True:
    data, handles, _, _ = socket.recv_fds(control, 16, 1)
    if not data:
        break
    relay.take(socket.socket(fileno=handles[0]))
    control.sendall(b"taken")
"""


class ShareMount:
    """A mount at `folder / "mount"` of the shares `roots`; paths below it are the host's whole paths."""

    def __init__(
        self,
        folder: Path,
        roots: dict[Path, bool],
        never: tuple[Path, ...] = (),
        server: tuple[str, ...] = ("-m", "proa.shares"),
        codes: tuple[int, ...] = (0,),
        locks: str = "guest",
    ) -> None:
        """`codes` are exit statuses of a server after which the next is started."""
        self.folder = folder
        self.place = folder / "mount"
        self.state = folder / "state" / "state.json"
        self.roots = roots
        self.never = never
        self._program = server
        self._codes = codes
        self.owner = "keep"
        self.locks = locks
        self.place.mkdir()
        self._spawner = Spawner(_environ())
        self._server: Spawned | None = None
        self._control = self._to_relay = socket.socket()
        self._lines = b""
        self._left: dict[int, int] = {}  # descriptors of what the server before had open
        self._lock = threading.RLock()  # the server may have to be followed by another at any time

    def path(self, host: Path) -> Path:
        """Where the mount has a host's path."""
        return self.place / host.relative_to("/")

    # -- processes ----------------------------------------------------------------------------

    def __enter__(self) -> ShareMount:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        self.start_server(fresh=True)
        self._to_relay, theirs = socket.socketpair()
        self._to_relay.settimeout(TIMEOUT)
        argv = [sys.executable, "-c", _RELAY, str(self.place), str(theirs.fileno())]
        self._relay = subprocess.Popen(
            argv, pass_fds=[theirs.fileno()], env=_environ(), stdout=subprocess.PIPE
        )
        theirs.close()
        assert self._relay.stdout is not None
        assert self._relay.stdout.readline() == b"mounted\n"
        self.connect()

    def start_server(self, *, fresh: bool) -> None:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(TIMEOUT)
        self._server = self._spawner.spawn(
            [sys.executable, *self._program], theirs.fileno(), self.folder / "server.log"
        )
        theirs.close()
        (self.folder / "server.pid").write_text(str(self.server_pid))
        self.configure(fresh=fresh)
        threading.Thread(target=self._follow, args=(self._server,), daemon=True).start()

    def _follow(self, server: Spawned) -> None:
        """Start the next when the server has ended by itself, as the agent does."""
        code = server.wait()
        with self._lock:
            if self._server is not server:
                return
            (self.folder / "server.pid").unlink()
            if code in self._codes:
                self._take_left()
                self.start_server(fresh=False)
                self.connect()
            else:  # who waits for its answers is told, and the test fails
                print((self.folder / "server.log").read_text(errors="replace"))
                abort_mounts(self.place)

    def configure(self, *, fresh: bool = False) -> None:
        roots = [[str(path), writable] for path, writable in self.roots.items()]
        order: dict[str, Any] = {"op": "config", "roots": roots, "never": [str(path) for path in self.never]}
        order |= {"owner": self.owner, "locks": self.locks, "state": str(self.state)}
        with self._lock:
            server = self._server
            order |= {"fresh": fresh, "left": list(self._left)}
            answer = self.order(order, list(self._left.values()))
            for handle in self._left.values():
                os.close(handle)
            self._left = {}
        if answer == {"ending": True}:  # it has not the rights for that
            assert server is not None
            self._follow(server)
        else:
            assert answer == {"done": True}

    def stop_server(self) -> None:
        """As a machine's session ends: it leaves its state."""
        server = self._take_server()
        self._control.shutdown(socket.SHUT_WR)
        self._take_left()
        assert server.wait(TIMEOUT) == 0, (self.folder / "server.log").read_text()

    def kill_server(self) -> None:
        """It leaves nothing."""
        server = self._take_server()
        server.kill()
        server.wait(TIMEOUT)
        self._control.close()

    def _take_left(self) -> None:
        """All that it says until it ends."""
        data, self._lines = self._lines, b""
        handles: list[int] = []
        while True:
            more, found, _, _ = socket.recv_fds(self._control, 65536, 253)
            data, handles = data + more, handles + found
            if not more:
                break
        self._control.close()
        messages = [json.loads(line) for line in data.splitlines()]
        numbers = [message["handles"] for message in messages if message.get("event") == "left"]
        self._left = dict(zip(*numbers, handles, strict=True)) if numbers else {}

    def _take_server(self) -> Spawned:
        with self._lock:
            server, self._server = self._server, None
            (self.folder / "server.pid").unlink(missing_ok=True)  # the number may soon be another's
        assert server is not None
        return server

    def connect(self) -> None:
        """A new stream between the two, instead of the last."""
        host, guest = stream_pair()
        with host, guest, self._lock:
            assert self.order({"op": "stream"}, [host.fileno()]) == {"done": True}
            socket.send_fds(self._to_relay, [b"take"], [guest.fileno()])
            assert self._to_relay.recv(16) == b"taken"

    @property
    def server_pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    def resident(self) -> float:
        """The server's memory in MiB."""
        return resident(self.server_pid)

    def status(self) -> dict[str, Any]:
        return self.order({"op": "status"})

    def asked(self) -> int:
        """How many requests the server has had."""
        return int(self.status()["asked"])

    def settled(self) -> dict[str, Any]:
        """The server's counts, once the mount has been told of all that has happened."""
        end = time.monotonic() + TIMEOUT
        same = 0
        before: dict[str, Any] = {}
        while same < 3:
            assert time.monotonic() < end, before
            now = {**self.status(), "rate": 0, "slowest": None}
            same = same + 1 if now["quiet"] and now == before else 0
            before = now
            time.sleep(0.02)  # what the watcher has yet to read cannot be asked for
        return before

    def order(self, content: dict[str, Any], handles: Sequence[int] = ()) -> dict[str, Any]:
        with self._lock:
            socket.send_fds(self._control, [json.dumps(content).encode() + b"\n"], handles)
            while True:
                while b"\n" not in self._lines:
                    data = self._control.recv(65536)
                    assert data, (self.folder / "server.log").read_text()
                    self._lines += data
                line, _, self._lines = self._lines.partition(b"\n")
                answer: dict[str, Any] = json.loads(line)
                if "event" not in answer:
                    return answer

    def close(self) -> None:
        with self._lock:
            server, self._server = self._server, None
        self._control.close()
        abort_mounts(self.place)
        self._to_relay.close()
        self._relay.wait(TIMEOUT)
        if server is not None:
            server.wait(TIMEOUT)
        self._spawner.close()


def can_confine() -> bool:
    """Whether this system can keep a process from files: tried in another, for it is for good."""
    program = "import sys; from proa.system.confinement import confine; sys.exit(not confine([], []))"
    argv = [sys.executable, "-c", program]
    return subprocess.run(argv, check=False, env=_environ(), timeout=TIMEOUT).returncode == 0


def outcome(call: Callable[..., Any], *given: Any) -> Any:
    """What it returns, or the name of its error."""
    try:
        return call(*given)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")


def exists(path: Path) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def soon(holds: Callable[[], bool]) -> bool:
    """Whether it holds within a bounded time; while files are missing it does not."""
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if holds():
                return True
        time.sleep(0.002)
    return False


def stream_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname(), timeout=TIMEOUT)
        far, _ = listener.accept()
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.setblocking(True)
    return near, far


def _environ() -> dict[str, str]:
    path = f"{REPOSITORY / 'host'}:{REPOSITORY / 'guest'}"
    return {**os.environ, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"}


def give_up(below: Path) -> None:
    """End the mounts of shares below a folder, and their servers, which say in their logs what they do."""
    for place in _mounts(below):
        with contextlib.suppress(OSError):
            os.kill(int((place.parent / "server.pid").read_text()), signal.SIGABRT)
    abort_mounts(below)


def abort_mounts(below: Path) -> None:
    """All requests to mounts of shares at or below a folder fail from now on, and the mounts are gone.

    Nothing else ends the wait for an answer to a request that the relay has taken: no signal does.
    """
    for place in _mounts(below):
        # Once for its requests, and once for itself, which whoever has a file open keeps there else.
        for how in ("--force", "--lazy"):
            argv = ["umount", "--no-canonicalize", how, str(place)]
            subprocess.run(argv, check=False, stderr=subprocess.DEVNULL, timeout=TIMEOUT)


def _mounts(below: Path) -> list[Path]:
    # Read where no request is needed for it.
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    places = [Path(words[4]) for words in lines if "fuse.proa" in words]
    return [place for place in places if place.is_relative_to(below)]
