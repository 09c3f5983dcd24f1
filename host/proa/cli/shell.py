"""`proa shell`: a command in the guest, with this terminal or with plain pipes."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
from collections.abc import Iterator

import click

from proa.cli.common import agent, machine_name
from proa.model.api import ExecRequest
from proa.model.errors import ProaError
from proa_guest import wire

CHUNK = 32 << 10


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example:  proa shell -- uname -a",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[NAME] [-- COMMAND...]")
def shell_verb(words: tuple[str, ...]) -> int:
    """A shell in the guest, as root, or the command behind `--`.

    The exit status is the command's own, 128 + n for signal n.
    """
    given, argv = _split(words, sys.argv)
    name = machine_name(given)
    tty = sys.stdin.isatty() and sys.stdout.isatty()
    columns, rows = os.get_terminal_size() if tty else (80, 24)
    request = ExecRequest(argv=argv, tty=tty, rows=rows, columns=columns, term=os.environ.get("TERM", "dumb"))
    with (
        agent() as client,
        contextlib.closing(client.execute(name, request)) as connection,
        _raw_terminal() if tty else contextlib.nullcontext(),
    ):
        return _Session(connection, tty).run()


def _split(words: tuple[str, ...], typed: list[str]) -> tuple[str | None, tuple[str, ...]]:
    """NAME and COMMAND. click takes `--` away, so what was typed says where the command begins."""
    if "--" in typed:
        command = tuple(typed[typed.index("--") + 1 :])
        before = words[: len(words) - len(command)]
    else:
        command, before = (), words
    if len(before) > 1:
        raise ProaError(
            "bad-usage",
            f"there is more than a machine's name: {' '.join(before)[:80]!r}",
            hint="a command stands behind --, for example: proa shell -- uname -a",
            usage=True,
        )
    return (before[0] if before else None), command


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
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


class _Session:
    """Copies between this process and the command until the command has ended."""

    def __init__(self, connection: socket.socket, tty: bool) -> None:
        self._connection = connection
        self._frames = wire.Frames()
        self._selector = selectors.DefaultSelector()
        self._status: int | None = None
        # A window's change arrives as a signal; the pipe makes it an event among the others.
        self._wake, self._woken = os.pipe()
        if tty and sys.platform != "win32":
            os.set_blocking(self._woken, False)
            signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
            signal.signal(signal.SIGWINCH, lambda number, frame: None)

    def run(self) -> int:
        self._selector.register(self._connection, selectors.EVENT_READ, self._from_guest)
        self._selector.register(self._wake, selectors.EVENT_READ, self._resized)
        try:
            self._selector.register(0, selectors.EVENT_READ, self._from_here)
        except PermissionError:
            # A file as input is always readable, and cannot be waited for: send it whole.
            self._send_file()
        while self._status is None:
            for key, _ in self._selector.select():
                key.data()
        return self._status

    def _send_file(self) -> None:
        while data := os.read(0, CHUNK):
            self._connection.sendall(wire.frame(wire.STDIN, data))
        self._connection.sendall(wire.frame(wire.STDIN_EOF))

    def _from_here(self) -> None:
        data = os.read(0, CHUNK)
        if data:
            self._connection.sendall(wire.frame(wire.STDIN, data))
        else:
            self._selector.unregister(0)
            self._connection.sendall(wire.frame(wire.STDIN_EOF))

    def _resized(self) -> None:
        os.read(self._wake, 4096)
        columns, rows = os.get_terminal_size()
        self._connection.sendall(wire.resize(rows, columns))

    def _from_guest(self) -> None:
        try:
            data = self._connection.recv(CHUNK)
            for kind, payload in self._frames.feed(data):
                self._take(kind, payload)
        except (wire.WireError, ConnectionError) as error:
            raise _lost(str(error)) from error
        if not data and self._status is None:
            raise _lost("the guest ended the connection")

    def _take(self, kind: int, payload: bytes) -> None:
        if kind in (wire.STDOUT, wire.STDERR):
            out = sys.stdout if kind == wire.STDOUT else sys.stderr
            out.buffer.write(payload)
            out.buffer.flush()
        elif kind == wire.EXIT:
            self._status = wire.exit_status(payload)


def _lost(why: str) -> ProaError:
    return ProaError(
        "shell-lost", "the connection to the guest was lost", why=why, hint="see what is wrong: proa status"
    )
