"""A command in the guest, attached to this process: input, output, window and signals as exec frames."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence

from proa.model.errors import ProaError
from proa_guest import wire

CHUNK = 32 << 10

Answer = Callable[[bytes], bytes]


@contextlib.contextmanager
def raw_terminal() -> Iterator[None]:
    """Every key goes to the guest; the terminal is as it was whatever happens."""
    if sys.platform == "win32":
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def window() -> tuple[int, int]:
    """Rows and columns of the terminal; the usual ones where there is none."""
    for descriptor in (1, 2, 0):
        with contextlib.suppress(OSError):
            columns, rows = os.get_terminal_size(descriptor)
            return rows, columns
    return 24, 80


class Session:
    """Copies between this process and the command until the command has ended.

    `signals` are passed on instead of ending this process; `answer` is what the guest's questions are given
    to. Raises ProaError `guest-lost`, and BrokenPipeError where nobody takes the output any more.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        resizes: bool,
        signals: Sequence[int] = (),
        answer: Answer | None = None,
    ) -> None:
        self._connection = connection
        self._frames = wire.Frames()
        self._answer = answer
        self._selector = selectors.DefaultSelector()
        self._status: int | None = None
        self._out = bytearray()  # for the guest
        self._input: int | None = 0  # the descriptor that is read; None at its end
        self._untaken = 0  # bytes of input that the command has not taken
        self._waits = True  # it can be waited for: a file is always readable
        # A signal is an event among the others: its number comes out of the pipe.
        self._woken, wake = os.pipe()
        if sys.platform != "win32":
            os.set_blocking(wake, False)
            signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
            for number in (*((signal.SIGWINCH,) if resizes else ()), *signals):
                signal.signal(number, lambda number, frame: None)

    def run(self) -> int:
        """The command's exit status, 128 + n for signal n."""
        self._connection.setblocking(False)
        self._selector.register(self._connection, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        if sys.stdin is None:  # it is closed, and its number may be another's
            self._end_of_input()
        else:
            try:
                self._selector.register(0, selectors.EVENT_READ)
            except PermissionError:
                self._waits = False
        while self._status is None:
            if not self._waits and self._input is not None and self._untaken < wire.MOST_INPUT:
                self._read_input()
            self._balance()
            for key, events in self._selector.select():
                if key.fd == self._woken:
                    self._signalled()
                elif key.fd == self._input:
                    self._read_input()
                elif events & selectors.EVENT_READ:
                    self._from_guest()
            self._send()
        return self._status

    def _balance(self) -> None:
        """Wait for what there is to do: to send, and to read where there is room for it."""
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
        self._selector.modify(self._connection, wanted)
        if self._waits and self._input is not None:
            registered = self._input in self._selector.get_map()
            full = self._untaken >= wire.MOST_INPUT
            if full and registered:
                self._selector.unregister(self._input)
            elif not full and not registered:
                self._selector.register(self._input, selectors.EVENT_READ)

    def _read_input(self) -> None:
        assert self._input is not None
        try:
            data = os.read(self._input, CHUNK)
        except OSError:
            data = b""  # a terminal that is gone
        if data:
            self._untaken += len(data)
            self._out += wire.frame(wire.STDIN, data)
            return
        if self._waits:
            self._selector.unregister(self._input)
        self._end_of_input()

    def _end_of_input(self) -> None:
        self._input = None
        self._out += wire.frame(wire.STDIN_EOF)

    def _signalled(self) -> None:
        for number in os.read(self._woken, 4096):
            if sys.platform != "win32" and number == signal.SIGWINCH:
                self._out += wire.resize(*window())
            else:
                self._out += wire.frame(wire.SIGNAL, bytes((number,)))

    def _send(self) -> None:
        try:
            while self._out:
                del self._out[: self._connection.send(self._out[:CHUNK])]
        except BlockingIOError:
            return
        except OSError as error:
            self._from_guest()  # its last words may be there
            if self._status is None:
                raise _lost(str(error)) from error

    def _from_guest(self) -> None:
        try:
            data = self._connection.recv(CHUNK)
            frames = list(self._frames.feed(data))
        except BlockingIOError:
            return
        except (wire.WireError, ConnectionError) as error:
            raise _lost(str(error)) from error
        for kind, payload in frames:
            self._take(kind, payload)
        if not data and self._status is None:
            raise _lost("the guest ended the connection")

    def _take(self, kind: int, payload: bytes) -> None:
        if kind in (wire.STDOUT, wire.STDERR):
            out = sys.stdout if kind == wire.STDOUT else sys.stderr
            out.buffer.write(payload)
            out.buffer.flush()
        elif kind == wire.EXIT:
            try:
                self._status = wire.exit_status(payload)
            except wire.WireError as error:
                raise _lost(str(error)) from error
        elif kind == wire.TAKEN:
            self._untaken = max(0, self._untaken - int.from_bytes(payload, "big"))
        elif kind == wire.ASK and self._answer is not None:
            self._out += wire.frame(wire.ANSWER, self._answer(payload))


def _lost(why: str) -> ProaError:
    return ProaError(
        "guest-lost", "the connection to the guest was lost", why=why, hint="see what is wrong: proa status"
    )
