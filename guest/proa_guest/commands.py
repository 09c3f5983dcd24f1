"""Init's door for subprocesses: small, because the standard one costs 0.2 s to import under emulation."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import time

LOG = "/run/proa/command.log"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRON = {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": "/root"}


PYTHON = "/usr/bin/python3"
PACKAGES = "/usr/lib/proa/python"


def module(name: str) -> list[str]:
    """The command that runs `main` of one of our modules, and nothing of the environment's or the user's."""
    return [
        PYTHON,
        "-sSE",
        "-c",
        f"import sys; sys.path.append({PACKAGES!r}); from {name} import main; main()",
    ]


class CommandFailed(Exception):
    """A command failed; the message has its last line."""


def spawn(argv: list[str], log: str, handles: dict[int, int] | None = None, programs: str = "") -> int:
    """Start a process in a session of its own, its output appended to `log`; its pid. Raises OSError.

    `handles`: numbers there -> descriptors here, which it gets besides.
    `programs`: a folder whose programs it finds before the system's.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    environ = {**ENVIRON, "PATH": f"{programs}:{_PATH}"} if programs else ENVIRON
    given = dict(handles or {})
    # First out of the way of each other's numbers; what is not given on closes itself.
    high = {number: fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 64) for number, handle in given.items()}
    actions += [(os.POSIX_SPAWN_DUP2, copy, number) for number, copy in high.items()]
    try:
        return os.posix_spawnp(
            argv[0], argv, environ, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_DEFAULT
        )
    finally:
        for copy in high.values():
            os.close(copy)


_DEFAULT = (signal.SIGPIPE, signal.SIGTERM, signal.SIGCHLD, signal.SIGINT)


def run(argv: list[str], *, timeout: float, good: tuple[int, ...] | None = (0,)) -> int:
    """Run a command to its end; its exit status. Raises CommandFailed unless it is in `good` (None: any)."""
    if os.path.exists(LOG):  # noqa: PTH110
        os.unlink(LOG)  # noqa: PTH108
    try:
        pid = spawn(argv, LOG)
    except OSError as error:
        raise CommandFailed(f"{argv[0]}: {error.strerror}") from error
    status = _wait(pid, timeout)
    if good is None or status in good:
        return status
    how = "took too long" if status == -signal.SIGKILL else f"exit status {status}"
    raise CommandFailed(f"{argv[0]}: {last_line(LOG) or how}")


def _wait(pid: int, timeout: float) -> int:
    handle = os.pidfd_open(pid)
    try:
        ended, _, _ = select.select([handle], [], [], timeout)
        if not ended:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def last_line(path: str) -> str:
    """The last line of a log that says something, at most 300 characters."""
    try:
        with open(path, "rb") as log:  # noqa: PTH123
            log.seek(max(0, os.fstat(log.fileno()).st_size - 4096))
            lines = log.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[-300:] for line in reversed(lines) if line.strip()), "")


def now() -> float:
    return time.monotonic()
