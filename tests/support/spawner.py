"""A process that starts others for this one, which may have files open where nobody answers before they run.

A child begins by closing what it does not inherit; for a file on a mount without a server that never ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

_PROGRAM = """
import json, os, socket, subprocess, sys, threading
def report(process, pipe):
    os.write(pipe, b"%d" % process.wait())
    os.close(pipe)
control = socket.socket(fileno=int(sys.argv[1]))
while True:
    data, handles, _, _ = socket.recv_fds(control, 65536, 2)
    if not data:
        break
    argv, log = json.loads(data)
    with open(log, "ab") as errors:
        process = subprocess.Popen([*argv, str(handles[0])], pass_fds=handles[:1], stderr=errors)
    os.close(handles[0])
    threading.Thread(target=report, args=(process, handles[1]), daemon=True).start()
    control.sendall(b"%d" % process.pid)
"""


class Spawned:
    """A process that the spawner has started."""

    def __init__(self, pid: int, ended: int) -> None:
        self.pid = pid
        self._code: Future[int] = Future()
        threading.Thread(target=self._read, args=(ended,), daemon=True).start()

    def _read(self, ended: int) -> None:
        with open(ended, "rb") as pipe:
            self._code.set_result(int(pipe.read()))

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, or the number of its signal negated. Raises TimeoutError."""
        return self._code.result(timeout)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


class Spawner:
    def __init__(self, environ: dict[str, str]) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            argv = [sys.executable, "-c", _PROGRAM, str(theirs.fileno())]
            self._process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], env=environ)

    def spawn(self, argv: Sequence[str], handle: int, log: Path) -> Spawned:
        """Start it with a descriptor, whose number is its last argument; its errors go to `log`."""
        ended, report = os.pipe()
        socket.send_fds(self._control, [json.dumps([list(argv), str(log)]).encode()], [handle, report])
        os.close(report)
        return Spawned(int(self._control.recv(16)), ended)

    def close(self) -> None:
        self._control.close()
        self._process.wait(20)
