"""The mount of the host's folders, and the relay between the kernel's FUSE and a stream of the host's.

A frame is a frame on both sides, with its length first; nothing in it is looked at but that. The mount
outlives the stream: what was unanswered when it broke is asked again on the next one. It outlives the
relay too, for init mounts it and keeps the descriptor; the relay is a process of its own, because the
agent must go on while a host's disk is slow.

The host also tells without being asked (frames without a number): what the kernel is not to trust any
more, and what is to be repeated in the mount. Those have a thread of their own, for the kernel holds a
folder's lock while it waits for an answer in it, and wants that lock for a notice too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import socket
import stat
import sys
import threading
import time

from proa_guest.anticipated import Anticipated
from proa_guest.commands import module, spawn
from proa_guest.fuse import (
    HEAD,
    HELLO,
    NOTIFY_ANTICIPATED,
    NOTIFY_LOOK,
    NOTIFY_REPEAT,
    REPEATED,
    REQUEST,
    TOLD,
    WATCHED,
    own_request,
    reply,
)
from proa_guest.locked import Locked
from proa_guest.repeat import Repeater

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
MOST = (1 << 20) + (64 << 10)  # bytes of a frame: a kernel's largest write, with its head
READ_AHEAD = 1024  # KiB; a kernel's own choice of 128 makes eight requests of one
MS_NOSUID, MS_NODEV, MS_NOATIME = 2, 4, 1024  # linux/mount.h
NOTIFY_RESEND = 7  # linux/fuse.h
# linux/fuse.h, asm-generic/errno.h
GETXATTR, IOCTL, ENOTTY, ENODATA = 22, 39, 25, 61
NEVER_THERE = (
    b"security."  # attributes that the host refuses, and that the kernel asks for with each new file
)
KEPT = 2.0  # seconds that a file stays open on the host for the next who reads it
# Seconds after which the host hears that a written file is closed: less than it takes to end a container, so
# that what it leaves can be run on the host.
LATE = 0.01
ACKNOWLEDGE = 32  # notices after which the host is told that they have arrived


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


def hand_over(stream: socket.socket) -> int | None:
    """Give the relay a stream of the host's; its pid where it had to be started. Raises OSError."""
    if _give(stream):
        return None
    return spawn(module("proa_guest.share"), RELAY_LOG, {HANDLE: HANDLE, STREAM: stream.fileno()})


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
    repeater = Repeater(FOLDER, (handle, STREAM))  # before there are threads
    lock = os.open(RELAY_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # Another one may be about to end, or was started at the same moment.
    fcntl.flock(lock, fcntl.LOCK_EX)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(RELAY_SOCKET)  # noqa: PTH108
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.umask(0o077)
    listener.bind(RELAY_SOCKET)
    listener.listen()
    relay = Relay(handle, repeater, _log)
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

    def __init__(
        self, device: int, repeater: Repeater, log: Callable[[str], None] = lambda text: None
    ) -> None:
        self._device = device
        self._repeater = repeater
        self._log = log
        self._sending = threading.Lock()
        self._notices: queue.SimpleQueue[tuple[socket.socket, bytes]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._there = threading.Condition(self._lock)
        self._kept = threading.Condition(self._lock)
        self._late = threading.Condition(self._lock)
        self._stream: socket.socket | None = None
        self._locked = Locked()  # only the thread that reads the kernel's requests asks it
        self._anticipated = Anticipated()  # `_lock` is held until the kernel has got what it says
        self.ended = threading.Event()  # the mount is gone
        threading.Thread(target=self._from_kernel, name="from the kernel", daemon=True).start()
        threading.Thread(target=self._tell, name="notices", daemon=True).start()
        threading.Thread(target=self._let_go, name="kept files", daemon=True).start()
        threading.Thread(target=self._close, name="closed files", daemon=True).start()

    def take(self, stream: socket.socket) -> None:
        """Use this stream from now on instead of any before it."""
        stream.setblocking(True)
        # First of all: only then does the host trust that it can tell, and know whom not to obey.
        with contextlib.suppress(OSError):  # whoever reads it finds out
            stream.sendall(own_request(HELLO, self._repeater.pid))
        with self._lock:
            before, self._stream = self._stream, stream
            self._anticipated.clear()
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

    def _current(self) -> tuple[socket.socket, bytes]:
        """The stream, once there is one, and what is to be sent before anything else."""
        with self._lock:
            while self._stream is None:
                self._there.wait()
            return self._stream, self._anticipated.reports()

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
            if self._answered_here(view[:size]):
                continue
            stream, reports = self._current()
            try:
                with self._sending:
                    stream.sendall(reports + view[:size] if reports else view[:size])
            except OSError as error:
                self._log(f"the host's stream broke: {error.strerror}")
                self._lost(stream)

    def _answered_here(self, request: memoryview) -> bool:
        """Answer what the host has told already, or could only refuse; False for what it is to decide."""
        _, op, unique, node, *_ = REQUEST.unpack_from(request)
        if self._locked.is_nothing(op, unique, node):
            self._reply(reply(unique))
            return True
        start = REQUEST.size + 8  # of an attribute's name
        refused = 0
        if op == GETXATTR and request[start : start + len(NEVER_THERE)] == NEVER_THERE:
            refused = ENODATA
        elif op == IOCTL:
            refused = ENOTTY  # asked for with each file that is opened, to see if it is a terminal
        if refused:
            self._reply(reply(unique, error=refused))
            return True
        with self._lock:
            answer = self._anticipated.answer(request, self._repeater.pid)
            if answer is None:
                return False
            if len(self._anticipated.open) == 1:
                self._kept.notify()
            if self._anticipated.open.late == 1:
                self._late.notify()
            try:
                os.write(self._device, answer)
            except FileNotFoundError:
                self._anticipated.not_wanted(request, answer)
        return True

    def _reply(self, answer: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):  # nobody waits for it any more
            os.write(self._device, answer)

    def _let_go(self) -> None:
        """Have files closed that nobody has opened again."""
        while True:
            with self._lock:
                while not self._anticipated.open:
                    self._kept.wait()
                self._kept.wait(KEPT)
                self._anticipated.open.drop_since(time.monotonic() - KEPT)
            self._tell_closed()

    def _close(self) -> None:
        """Have files closed that were written to, together with those that follow within a moment."""
        pause = threading.Event()
        while True:
            with self._lock:
                while not self._anticipated.open.late:
                    self._late.wait()
            pause.wait(LATE)
            self._tell_closed()

    def _tell_closed(self) -> None:
        with self._lock:
            closed, stream = self._anticipated.closed(all_of_them=True), self._stream
        if closed and stream is not None:
            self._send(stream, closed)

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
                start = self._replies(stream, view, start, end)
                if start == end:
                    start = end = 0
                elif start:
                    buffer[: end - start] = bytes(view[start:end])
                    start, end = 0, end - start
        except (OSError, RelayError) as error:
            self._log(f"the host's stream broke: {error}")
        self._lost(stream)

    def _replies(self, stream: socket.socket, view: memoryview, start: int, end: int) -> int:
        """Write the whole frames in `view[start:end]`; where the first one begins that is not whole."""
        while end - start >= HEAD.size:
            length, error, unique = HEAD.unpack_from(view, start)
            if not HEAD.size <= length <= MOST:
                raise RelayError(f"a frame that says to have {length} bytes")
            if end - start < length:
                break
            if unique == 0:
                self._notice(stream, bytes(view[start : start + length]))
            else:
                self._locked.replied(unique, error)
                with self._lock:
                    self._anticipated.replied(unique)
                # ENOENT: nobody waits for this answer any more.
                with contextlib.suppress(FileNotFoundError):
                    os.write(self._device, view[start : start + length])
            start += length
        return start

    def _notice(self, stream: socket.socket, notice: bytes) -> None:
        with self._lock:
            if HEAD.unpack_from(notice)[1] == NOTIFY_ANTICIPATED:
                if stream is self._stream:  # else nobody tells of what changes it
                    self._anticipated.take(notice[HEAD.size :])
                return
            self._anticipated.not_true(notice)
        self._notices.put((stream, notice))

    def _tell(self) -> None:
        """Write each notice to the kernel, or have it repeated, and tell the host so on its own stream."""
        told, last = 0, None
        while True:
            stream, notice = self._notices.get()
            if stream is not last:
                told, last = 0, stream
            _, code, _ = HEAD.unpack_from(notice)
            if code == NOTIFY_REPEAT:
                self._repeat(stream, notice[HEAD.size :])
            elif code == NOTIFY_LOOK:
                # Beside the notices that come after it, for it takes longer than they may be late.
                arguments = (stream, notice[HEAD.size :])
                threading.Thread(target=self._look, args=arguments, name="look", daemon=True).start()
            else:
                # Mostly ENOENT: the kernel does not know, or has forgotten, what it is told of.
                with contextlib.suppress(OSError):
                    os.write(self._device, notice)
            told += 1
            if told == ACKNOWLEDGE or self._notices.empty():
                self._send(stream, own_request(TOLD, told))
                told = 0

    def _repeat(self, stream: socket.socket, task: bytes) -> None:
        with self._or_end():
            error = self._repeater.carry_out(task)
        self._send(stream, own_request(REPEATED, error, task[:8]))

    def _look(self, stream: socket.socket, number: bytes) -> None:
        with self._or_end():
            error, nodes = self._repeater.look(number)
        self._send(stream, own_request(WATCHED, error, number + nodes))

    @contextlib.contextmanager
    def _or_end(self):  # type: ignore[no-untyped-def]  # typing is not imported in the guest
        """Without the process that repeats, the relay ends too: the host's next stream begins anew."""
        try:
            yield
        except OSError as failed:
            self._log(f"{failed.strerror}, so the relay ends too")
            os._exit(1)

    def _send(self, stream: socket.socket, frame: bytes) -> None:
        with contextlib.suppress(OSError), self._sending:  # who reads the stream finds out
            stream.sendall(frame)


def _end(stream: socket.socket) -> None:
    with contextlib.suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)
    stream.close()
