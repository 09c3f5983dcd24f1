"""A command under a real pseudo-terminal, driven as a person would."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager


class Terminal:
    """`text` is all that was shown so far."""

    def __init__(self, pid: int, fd: int) -> None:
        self._pid, self._fd = pid, fd
        self.text = ""
        self.status: int | None = None

    def send(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        """The kernel tells the foreground process with SIGWINCH."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def expect(self, pattern: str, timeout: float = 30.0) -> re.Match[str]:
        """Read until `pattern` is shown; what was matched, and all before it, is taken from `text`."""
        deadline = time.monotonic() + timeout
        while True:
            if found := re.search(pattern, self.text):
                self.text = self.text[found.end() :]
                return found
            left = deadline - time.monotonic()
            assert left > 0 and self._read(left), f"{pattern!r} was not shown, but: {self.text[-2000:]!r}"

    def wait(self, timeout: float = 30.0) -> int:
        """The shell's exit status of the command (128+n after signal n)."""
        deadline = time.monotonic() + timeout
        while self._read(max(0.0, deadline - time.monotonic())):
            assert time.monotonic() < deadline, f"not ended within {timeout:.0f} s: {self.text[-2000:]!r}"
        while self.status is None:
            self._reap(os.WNOHANG)
            assert time.monotonic() < deadline, f"not ended within {timeout:.0f} s: {self.text[-2000:]!r}"
            if self.status is None:
                time.sleep(0.02)
        return self.status

    def close(self) -> None:
        if self.status is None:
            os.kill(self._pid, signal.SIGKILL)
            self._reap(0)
        os.close(self._fd)

    def _read(self, timeout: float) -> bool:
        """Read once; False at the terminal's end."""
        if not select.select([self._fd], [], [], timeout)[0]:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # EIO: Linux's way to say that the other side is closed
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def _reap(self, options: int) -> None:
        pid, status = os.waitpid(self._pid, options)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            self.status = 128 - code if code < 0 else code


@contextmanager
def terminal(
    argv: Sequence[str], env: Mapping[str, str], *, rows: int = 24, columns: int = 80
) -> Iterator[Terminal]:
    pid, fd = pty.fork()
    if pid == 0:
        try:
            os.execvpe(argv[0], list(argv), dict(env))
        finally:
            os._exit(127)
    shown = Terminal(pid, fd)
    try:
        shown.resize(rows, columns)
        yield shown
    finally:
        shown.close()
