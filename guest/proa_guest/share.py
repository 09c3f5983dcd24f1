"""The mount of the host's folders, and the relay between the kernel's FUSE and a stream of the host's.

A frame is a frame on both sides, with its length first; nothing in it is looked at but that. The mount
outlives the stream: what was unanswered when it broke is asked again on the next one. It outlives the
relay too, for init mounts it and keeps the descriptor; the relay is a process of its own, because the
agent must go on while a host's disk is slow.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import struct
import sys
import threading

from proa_guest.commands import spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = "/run/proa/host"  # where the host's folders are in the guest
DEVICE = "/dev/fuse"
DEVICE_NUMBER = os.makedev(10, 229)  # linux/miscdevice.h, FUSE_MINOR
HANDLE = 3  # the number that init gives the agent the mount's descriptor under
STREAM = 4  # and the agent the relay its first stream
RELAY_SOCKET = "/run/proa/share.sock"
RELAY_LOCK = "/run/proa/share.lock"
RELAY_LOG = "/var/log/proa/share.log"
RELAY = [
    "python3", "-sSE", "-c",
    "import sys; sys.path.append('/usr/lib/proa/python'); from proa_guest.share import main; main()",
]  # fmt: skip
MOST = (1 << 20) + (64 << 10)  # bytes of a frame: a kernel's largest write, with its head
READ_AHEAD = 1024  # KiB; a kernel's own choice of 128 makes eight requests of one
MS_NOSUID, MS_NODEV, MS_NOATIME = 2, 4, 1024  # linux/mount.h
NOTIFY_RESEND = 7  # linux/fuse.h
HEAD = struct.Struct("<IiQ")


class RelayError(Exception):
    """The host sent what is no frame."""


def mount(target: str) -> int:
    """Mount the host's folders there; the descriptor of its requests is the answer. Raises OSError."""
    os.makedirs(target, exist_ok=True)  # noqa: PTH103
    handle = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    options = (
        f"fd={handle},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read={1 << 20}"
    )
    import ctypes  # only where it is needed: it takes a while under emulation

    library = ctypes.CDLL(None, use_errno=True)
    flags = MS_NOSUID | MS_NODEV | MS_NOATIME
    if library.mount(b"proa", target.encode(), b"fuse.proa", ctypes.c_ulong(flags), options.encode()):
        number = ctypes.get_errno()
        os.close(handle)
        raise OSError(number, f"mount {target}: {os.strerror(number)}")
    return handle


def read_ahead(target: str) -> None:
    """Let the kernel read ahead in pieces as large as a request. Blocks until the mount is answered."""
    device = os.stat(target).st_dev  # noqa: PTH116
    path = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123
        file.write(str(READ_AHEAD))


def inherited() -> int | None:
    """The mount's descriptor as init gave it; None where there is none. No child of ours gets it."""
    try:
        found = os.fstat(HANDLE)
    except OSError:
        return None
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != DEVICE_NUMBER:
        return None
    os.set_inheritable(HANDLE, False)
    return HANDLE


def hand_over(stream: socket.socket) -> None:
    """Give the relay a stream of the host's; start the relay where there is none. Raises OSError."""
    if not _give(stream):
        spawn(RELAY, RELAY_LOG, {HANDLE: HANDLE, STREAM: stream.fileno()})


def _give(stream: socket.socket) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as relay:
        try:
            relay.connect(RELAY_SOCKET)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        socket.send_fds(relay, [b"stream"], [stream.fileno()])
    return True


def main() -> None:
    """The relay's process: the stream that it is born with, and each one that comes after it."""
    first = socket.socket(fileno=STREAM)
    os.set_inheritable(STREAM, False)
    handle = inherited()
    if handle is None:
        raise SystemExit("there is no mount")
    lock = os.open(RELAY_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # Another one may be about to end, or was started at the same moment.
    fcntl.flock(lock, fcntl.LOCK_EX)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(RELAY_SOCKET)  # noqa: PTH108
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.umask(0o077)
    listener.bind(RELAY_SOCKET)
    listener.listen()
    relay = Relay(handle, _log)
    relay.take(first)
    threading.Thread(target=_when_answered, daemon=True).start()
    while True:
        connection, _ = listener.accept()
        with connection:
            _, handles, _, _ = socket.recv_fds(connection, 16, 1)
            for number in handles:
                relay.take(socket.socket(fileno=number))


def _when_answered() -> None:
    try:
        read_ahead(FOLDER)
    except OSError as error:
        _log(f"the mount's read-ahead stays as it is: {error}")


def _log(text: str) -> None:
    sys.stderr.write(f"share: {text}\n")
    sys.stderr.flush()


class Relay:
    """Moves frames between a mount's descriptor and one stream at a time."""

    def __init__(self, device: int, log: Callable[[str], None] = lambda text: None) -> None:
        self._device = device
        self._log = log
        self._lock = threading.Lock()
        self._there = threading.Condition(self._lock)
        self._stream: socket.socket | None = None
        self.ended = threading.Event()  # the mount is gone
        threading.Thread(target=self._from_kernel, name="from the kernel", daemon=True).start()

    def take(self, stream: socket.socket) -> None:
        """Use this stream from now on instead of any before it."""
        stream.setblocking(True)
        with self._lock:
            before, self._stream = self._stream, stream
            self._there.notify_all()
        if before is not None:
            _end(before)
        threading.Thread(target=self._from_host, args=(stream,), name="from the host", daemon=True).start()
        self._resend()

    def _resend(self) -> None:
        """Have the kernel ask again what was unanswered (Linux 6.9 and later). Before INIT it is nothing."""
        try:
            os.write(self._device, HEAD.pack(HEAD.size, NOTIFY_RESEND, 0))
        except OSError as error:
            self._log(f"what was unanswered is not asked again: {error.strerror}")

    def _current(self) -> socket.socket:
        with self._lock:
            while self._stream is None:
                self._there.wait()
            return self._stream

    def _lost(self, stream: socket.socket) -> None:
        with self._lock:
            if self._stream is stream:
                self._stream = None
        _end(stream)

    def _from_kernel(self) -> None:
        """For each request: read it, and send it. One that cannot be sent is asked again with the next."""
        buffer = bytearray(MOST)
        view = memoryview(buffer)
        while True:
            try:
                size = os.readv(self._device, [buffer])
            except InterruptedError:
                continue
            except FileNotFoundError:
                continue  # the request was given up before it was read
            except OSError as error:
                self._log(f"the mount has ended: {error.strerror}")
                self.ended.set()
                return
            stream = self._current()
            try:
                stream.sendall(view[:size])
            except OSError as error:
                self._log(f"the host's stream broke: {error.strerror}")
                self._lost(stream)

    def _from_host(self, stream: socket.socket) -> None:
        """Write each reply to the kernel, whole, as it wants them."""
        buffer = bytearray(2 * MOST)
        view = memoryview(buffer)
        start = end = 0
        try:
            while True:
                taken = stream.recv_into(view[end:])
                if not taken:
                    break
                end += taken
                start = self._replies(view, start, end)
                if start == end:
                    start = end = 0
                elif start:
                    buffer[: end - start] = bytes(view[start:end])
                    start, end = 0, end - start
        except (OSError, RelayError) as error:
            self._log(f"the host's stream broke: {error}")
        self._lost(stream)

    def _replies(self, view: memoryview, start: int, end: int) -> int:
        """Write the whole frames in `view[start:end]`; where the first one begins that is not whole."""
        while end - start >= HEAD.size:
            length = int.from_bytes(view[start : start + 4], "little")
            if not HEAD.size <= length <= MOST:
                raise RelayError(f"a frame that says to have {length} bytes")
            if end - start < length:
                break
            # ENOENT: nobody waits for this answer any more.
            with contextlib.suppress(FileNotFoundError):
                os.write(self._device, view[start : start + length])
            start += length
        return start


def _end(stream: socket.socket) -> None:
    with contextlib.suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)
    stream.close()
