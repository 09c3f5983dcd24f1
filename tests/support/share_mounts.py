"""The share server and the guest's relay as two processes on this host, and a real mount between them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
TIMEOUT = 20.0
SOON = 5.0  # seconds, on a busy machine; how long it takes is the bench's matter
_RELAY = """
import os, socket, sys
from proa_guest import repeat, share
device = share.mount(sys.argv[1])
repeater = repeat.Repeater(sys.argv[1], (device, int(sys.argv[2])))
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

    def __init__(self, folder: Path, roots: dict[Path, bool], never: tuple[Path, ...] = ()) -> None:
        self.folder = folder
        self.place = folder / "mount"
        self.roots = roots
        self.never = never
        self.owner = "keep"
        self.place.mkdir()
        self._server: subprocess.Popen[bytes] | None = None
        self._control = self._to_relay = socket.socket()
        self._lines = b""

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
        self._server = subprocess.Popen(
            [sys.executable, "-m", "proa.shares", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=_environ(),
            stderr=(self.folder / "server.log").open("ab"),
        )
        theirs.close()
        self.configure(fresh=fresh)

    def configure(self, *, fresh: bool = False) -> None:
        roots = [[str(path), writable] for path, writable in self.roots.items()]
        order = {"op": "config", "roots": roots, "never": [str(path) for path in self.never]}
        state = str(self.folder / "state.json")
        assert self.order({**order, "owner": self.owner, "state": state, "fresh": fresh}) == {"done": True}

    def stop_server(self) -> None:
        """As a machine's session ends: it leaves its state."""
        self._control.close()
        assert self._server is not None
        assert self._server.wait(TIMEOUT) == 0, (self.folder / "server.log").read_text()

    def kill_server(self) -> None:
        """It leaves nothing."""
        assert self._server is not None
        self._server.kill()
        self._server.wait(TIMEOUT)
        self._control.close()

    def connect(self) -> None:
        """A new stream between the two, instead of the last."""
        host, guest = stream_pair()
        with host, guest:
            assert self.order({"op": "stream"}, host) == {"done": True}
            socket.send_fds(self._to_relay, [b"take"], [guest.fileno()])
            assert self._to_relay.recv(16) == b"taken"

    def resident(self) -> float:
        """The server's memory in MiB."""
        assert self._server is not None
        status = Path(f"/proc/{self._server.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1024

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

    def order(self, content: dict[str, Any], stream: socket.socket | None = None) -> dict[str, Any]:
        handles = [stream.fileno()] if stream is not None else []
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
        if self._server is not None and self._server.poll() is None:
            self._control.close()
        # Aborted first: nobody in it may wait for an answer that never comes.
        number = os.minor(int(_device_of(self.place)))
        abort = Path(f"/sys/fs/fuse/connections/{number}/abort")
        if abort.exists():
            abort.write_text("1")
        subprocess.run(["umount", "-l", str(self.place)], check=False, timeout=TIMEOUT)
        self._to_relay.close()
        self._relay.wait(TIMEOUT)
        if self._server is not None:
            self._server.wait(TIMEOUT)


def outcome(call: Callable[..., Any], *given: Any) -> Any:
    """What it returns, or the name of its error."""
    try:
        return call(*given)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")


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
    return {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'host'}:{REPOSITORY / 'guest'}"}


def _device_of(place: Path) -> int:
    """The mount's device, read where no request is needed for it."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[4] == str(place):
            major, minor = words[2].split(":")
            return os.makedev(int(major), int(minor))
    return 0
