"""A command in the guest for `proa shell`: input, output and end as frames, with or without a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Iterator

from proa_guest import wire

SHELL = ["/bin/bash", "-l"]
CHUNK = 32 << 10
OOM_SCORE = "/proc/self/oom_score_adj"
HIGH = 256 << 10  # bytes that may wait for a slow host before the command's output is read no further
_KINDS = (wire.STDIN, wire.STDOUT, wire.STDERR)  # of the frames of a command's streams
ENVIRON = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


class ExecEnd(asyncio.Protocol):
    """One exec stream: it starts its command when the host is connected, and ends it when the host goes."""

    def __init__(self, request: dict[str, object]) -> None:
        argv = request.get("argv") or SHELL
        if not isinstance(argv, list) or not all(isinstance(word, str) and "\0" not in word for word in argv):
            raise wire.WireError("argv is not a list of words")
        self._argv: list[str] = argv
        tty = request.get("tty") is True
        self._terminals = (tty, tty, tty)  # which of its three streams are the terminal
        self._size = (_number(request.get("rows"), 24), _number(request.get("columns"), 80))
        self._environ = {**ENVIRON, "TERM": str(request.get("term", "dumb"))[:64]}
        self._frames = wire.Frames()
        self._transport: asyncio.Transport | None = None
        self._pid = 0
        self._stdin = -1
        self._outer = -1  # our side of the terminal, while its output is read
        self._waiting = bytearray()  # input that the command has not read yet
        self._stdin_ends = False
        self._outputs: dict[int, int] = {}  # descriptor -> kind of frame
        self._paused = False
        self._status: int | None = None

    # -- the command --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH)
        try:
            self._start()
        except OSError as error:
            transport.write(wire.frame(wire.STDERR, f"{self._argv[0]}: {error.strerror}\n".encode()))
            transport.write(wire.exit_frame(127 if isinstance(error, FileNotFoundError) else 126))
            transport.close()
            return
        self._read_on()
        handle = os.pidfd_open(self._pid)
        asyncio.get_running_loop().add_reader(handle, self._ended, handle)

    def _start(self) -> None:
        inner: list[int] = []
        try:
            self._open(inner)
            for descriptor in {self._stdin, *self._outputs}:
                os.set_blocking(descriptor, False)
            self._pid = self._spawn(inner)
        except OSError:
            self._close_all()
            raise
        finally:
            for descriptor in set(inner):
                os.close(descriptor)

    def _open(self, inner: list[int]) -> None:
        """Our ends of its streams; the command's own three go to `inner`."""
        terminal = -1
        if any(self._terminals):
            self._outer, terminal = os.openpty()
            self._set_size(self._outer)
        for number, (kind, shown) in enumerate(zip(_KINDS, self._terminals, strict=True)):
            if shown:
                ours, theirs = self._outer, terminal
            elif kind == wire.STDIN:
                theirs, ours = os.pipe()
            else:
                ours, theirs = os.pipe()
            inner.append(theirs)
            if number == 0:
                self._stdin = ours
            else:
                self._outputs.setdefault(ours, kind)

    def _spawn(self, inner: list[int]) -> int:
        argv = self._argv
        if self._terminals[0]:
            # A session of its own whose controlling terminal is the new one: setsid(1) does both.
            argv = ["setsid", "--ctty", "--wait", *argv]
        return self._spawn_as(argv, inner, setsid=not self._terminals[0])

    def _spawn_as(self, argv: list[str], inner: list[int], *, setsid: bool) -> int:
        actions = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(inner)]
        with _unprotected():
            return os.posix_spawnp(
                argv[0], argv, self._environ, file_actions=actions, setsid=setsid, setsigmask=(),
                setsigdef=(signal.SIGHUP, signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT),
            )  # fmt: skip

    def _set_size(self, descriptor: int) -> None:
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", *self._size, 0, 0))

    def _ended(self, handle: int) -> None:
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self._status = code if code >= 0 else 128 - code
        self._pid = 0
        self._finish_if_drained()

    # -- its output ---------------------------------------------------------------------------

    def _read_on(self) -> None:
        loop = asyncio.get_running_loop()
        for descriptor in self._outputs:
            loop.add_reader(descriptor, self._output, descriptor)

    def _output(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # EIO: the terminal's last process has closed it
        if data and self._transport is not None:
            self._transport.write(wire.frame(self._outputs[descriptor], data))
            return
        asyncio.get_running_loop().remove_reader(descriptor)
        del self._outputs[descriptor]
        if descriptor == self._outer:
            self._outer = -1
        if descriptor == self._stdin:
            self._close_stdin()
        else:
            os.close(descriptor)
        self._finish_if_drained()

    def _finish_if_drained(self) -> None:
        """The exit status goes last: after it nothing of the command's is missing."""
        if self._status is None or self._transport is None:
            return
        if self._outputs.keys() - {self._outer}:
            return
        for descriptor in self._outputs:
            # A terminal stays open while some background process holds it: what is there now is all.
            self._drain(descriptor)
        self._transport.write(wire.exit_frame(self._status))
        self._transport.close()

    def _drain(self, descriptor: int) -> None:
        while True:
            try:
                data = os.read(descriptor, CHUNK)
            except OSError:
                return
            if not data or self._transport is None:
                return
            self._transport.write(wire.frame(self._outputs[descriptor], data))

    def pause_writing(self) -> None:
        self._paused = True
        for descriptor in self._outputs:
            asyncio.get_running_loop().remove_reader(descriptor)

    def resume_writing(self) -> None:
        self._paused = False
        self._read_on()

    # -- its input ----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            for kind, payload in self._frames.feed(data):
                self._take(kind, payload)
        except wire.WireError:
            self._transport.abort()

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == wire.STDIN:
            self._waiting += payload
            self._feed()
        elif kind == wire.STDIN_EOF:
            self._stdin_ends = True
            self._feed()
        elif kind == wire.RESIZE and len(payload) == 4:
            self._size = (int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:], "big"))
            if self._outer >= 0:
                self._set_size(self._outer)
        elif kind == wire.SIGNAL and len(payload) == 1 and self._pid:
            os.killpg(self._pid, payload[0])
        else:
            raise wire.WireError("this frame is not for a command")

    def _feed(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            taken = self._fed()
            if not taken:
                loop.add_writer(self._stdin, self._feed)
                if self._transport is not None and len(self._waiting) > wire.MOST_INPUT:
                    self._transport.pause_reading()  # for a host that does not wait until it is taken
                return
            del self._waiting[:taken]
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(wire.taken(taken))
        if self._stdin >= 0:
            loop.remove_writer(self._stdin)
        if self._transport is not None:
            self._transport.resume_reading()
        if self._stdin_ends and not self._terminals[0]:
            self._close_stdin()

    def _fed(self) -> int:
        """How much of its input the command takes now: all where it reads no more."""
        try:
            return os.write(self._stdin, self._waiting[:CHUNK])
        except BlockingIOError:
            return 0
        except OSError:
            return len(self._waiting)

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            asyncio.get_running_loop().remove_writer(self._stdin)
            os.close(self._stdin)
            self._stdin = -1

    # -- the host goes ------------------------------------------------------------------------

    def eof_received(self) -> bool:
        return False  # input ends with a frame of its own: this is the host going away

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._pid:
            try:
                os.killpg(self._pid, signal.SIGHUP)
            except ProcessLookupError:
                self._pid = 0
        self._close_all()

    def _close_all(self) -> None:
        for descriptor in list(self._outputs):
            asyncio.get_running_loop().remove_reader(descriptor)
            if descriptor != self._stdin:
                os.close(descriptor)
        self._outputs.clear()
        self._outer = -1
        self._close_stdin()


@contextlib.contextmanager
def _unprotected() -> Iterator[None]:
    """A user's command is no service: where memory runs out it may be ended, as anything else may.

    The score is inherited, and a child that forks at once would be too fast for us to lower it later.
    """
    with open(OOM_SCORE, "r+", encoding="ascii") as score:  # noqa: PTH123
        own = score.read().strip()
        if not own.startswith("-"):
            yield
            return
        score.write("0")
        score.flush()
        try:
            yield
        finally:
            score.write(own)


def _number(value: object, default: int) -> int:
    return value if isinstance(value, int) and 0 < value < 1 << 16 else default
