"""The one door for subprocesses, and the proof that a process is still the one we started."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proa.model.errors import ProaError
from proa.system.files import explain

if TYPE_CHECKING:
    import asyncio

POLL = 0.05  # seconds between looks where the system cannot tell us of a process's end
MOST_FILES = 65536  # open at once


@dataclass(frozen=True)
class Finished:
    """What a command left: its exit status (negative: the signal), output and errors."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def line(self) -> str:
        """The command as a line that can be pasted into a shell."""
        return shlex.join(self.argv)

    def check(self, doing: str) -> Finished:
        """Self if it ended well, else ProaError `command-failed` with its last line of errors."""
        if self.status == 0:
            return self
        told = self.stderr.decode("utf-8", "replace").strip().splitlines()
        how = f"signal {-self.status}" if self.status < 0 else f"exit status {self.status}"
        raise ProaError(
            "command-failed",
            f"cannot {doing}",
            why=f"{Path(self.argv[0]).name}: {told[-1] if told else how}",
            hint=f"to see for yourself: {self.line}",
        )


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Finished:
    """Run a command to its end in `timeout` seconds. Raises ProaError `command-missing`, `command-hung`."""
    try:
        done = subprocess.run(  # noqa: TID251  (this is the door)
            list(argv),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            timeout=timeout,
            env=env,
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as error:
        raise ProaError(
            "command-missing",
            f"cannot run {argv[0]}",
            why="it is not installed",
            hint="install it and try again",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ProaError(
            "command-hung",
            f"{Path(argv[0]).name} did not end within {timeout:.0f} s",
            hint=f"to see for yourself: {shlex.join(argv)}",
        ) from error
    except OSError as error:
        raise explain(error, f"run {argv[0]}") from error
    return Finished(tuple(argv), done.returncode, done.stdout, done.stderr)


async def run_async(
    argv: Sequence[str],
    *,
    timeout: float,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Finished:
    """`run` without holding up the event loop."""
    import asyncio  # not at the top: a command line that only runs a program pays nothing for it

    return await asyncio.to_thread(run, argv, timeout=timeout, input=input, env=env, cwd=cwd)


async def run_lines(
    argv: Sequence[str],
    on_line: Callable[[str], None],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
) -> Finished:
    """Run a long command, and hear its lines of stderr as they come; its stdout is in the result.

    It ends with its children when we are cancelled. Raises ProaError `command-missing`, `command-hung`.
    """
    import asyncio  # as above

    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise ProaError("command-missing", f"cannot run {argv[0]}", why="it is not installed") from error
    except OSError as error:
        raise explain(error, f"run {argv[0]}") from error
    assert process.stdout is not None and process.stderr is not None
    try:
        async with asyncio.timeout(timeout):
            out, _ = await asyncio.gather(process.stdout.read(), _hear(process.stderr, on_line))
            status = await process.wait()
    except TimeoutError as error:
        raise ProaError(
            "command-hung",
            f"{Path(argv[0]).name} did not end within {timeout:.0f} s",
            hint=f"to see for yourself: {shlex.join(argv)}",
        ) from error
    finally:
        if process.returncode is None:
            _end_group(process.pid)
            await asyncio.shield(process.wait())
    return Finished(tuple(argv), status, out, b"")


async def _hear(stream: asyncio.StreamReader, on_line: Callable[[str], None]) -> None:
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            continue  # a line without an end: asyncio has dropped what it read of it
        if not line:
            return
        on_line(line.decode("utf-8", "replace").rstrip())


def _end_group(pid: int) -> None:
    """End a child that leads a session of its own, with all in it; it is not reaped yet, so it is ours."""
    if sys.platform == "win32":
        os.kill(pid, signal.SIGTERM)
    else:
        os.killpg(pid, signal.SIGKILL)


@dataclass(frozen=True)
class ProcessIdentity:
    """A process that cannot be mistaken for a later one with its pid: pid and start time."""

    pid: int
    started: str


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of the living process `pid`; None for none, or one that has ended (a zombie)."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
        except OSError:
            return None
        # proc(5): field 3 is the state, field 22 the start time in clock ticks since boot.
        return None if fields[0] in (b"Z", b"X") else ProcessIdentity(pid, f"{boot_id()}:{int(fields[19])}")
    if sys.platform == "win32":
        from proa.system import windows_processes  # not to be had elsewhere

        began = windows_processes.started(pid)
        return ProcessIdentity(pid, began) if began else None
    told = run(["ps", "-o", "lstart=", "-p", str(pid)], timeout=10)
    started = told.stdout.decode("ascii", "replace").strip()
    return ProcessIdentity(pid, started) if told.status == 0 and started else None


def alive(identity: ProcessIdentity) -> bool:
    return identify(identity.pid) == identity


def holders(path: Path) -> list[ProcessIdentity]:
    """Living processes of ours that have `path` open; empty where the system does not tell."""
    if sys.platform != "linux":
        return []
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        identity = identify(int(process.name))
        try:
            if identity and any(_leads_to(entry, path) for entry in (process / "fd").iterdir()):
                found.append(identity)
        except OSError:
            continue  # another user's, or it has ended
    return found


def _leads_to(entry: Path, path: Path) -> bool:
    try:
        return entry.readlink() == path
    except OSError:
        return False  # closed meanwhile


def command_line(identity: ProcessIdentity) -> tuple[str, ...]:
    """The words that the process was started with; empty where it is gone or the system does not tell."""
    try:
        words = Path(f"/proc/{identity.pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ()
    return tuple(os.fsdecode(word) for word in words) if alive(identity) else ()


def kill(identity: ProcessIdentity, *, force: bool = False) -> bool:
    """Signal (SIGTERM, or SIGKILL) the process if it is proved to be that one; False if it is not there."""
    if sys.platform == "linux":
        return _kill_by_handle(identity, signal.SIGKILL if force else signal.SIGTERM)
    if not alive(identity):
        return False
    try:
        # Windows has no SIGKILL; its SIGTERM is TerminateProcess already.
        os.kill(identity.pid, getattr(signal, "SIGKILL", signal.SIGTERM) if force else signal.SIGTERM)
    except ProcessLookupError:
        return False
    return True


def _kill_by_handle(identity: ProcessIdentity, number: int) -> bool:
    """The pidfd is opened first: what is proved after that cannot change under our hands."""
    if sys.platform != "linux":
        return False
    try:
        handle = os.pidfd_open(identity.pid)
    except OSError:
        return False
    try:
        if not alive(identity):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


async def wait_end(identity: ProcessIdentity) -> None:
    """Return when the process is gone (or a zombie). A child of ours is reaped."""
    if sys.platform == "linux":
        try:
            handle = os.pidfd_open(identity.pid)
        except OSError:
            return
        try:
            if alive(identity):
                await readable(handle)
        finally:
            os.close(handle)
        _reap(identity.pid)
        return
    import asyncio

    while await asyncio.to_thread(alive, identity):  # noqa: ASYNC110  (the system has no event for this)
        await asyncio.sleep(POLL)


async def readable(handle: int) -> None:
    """Return when there is something to read there, or its end. POSIX systems only."""
    import asyncio

    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(handle, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(handle)


def _reap(pid: int) -> None:
    if sys.platform != "win32":
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return  # not our child: an adopted machine's


def spawn_detached(
    argv: Sequence[str],
    *,
    log: Path,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    told: Callable[[int], bytes] | None = None,
) -> ProcessIdentity:
    """Start a process in a session of its own that outlives us; its output is appended to `log` (0600).

    `told` gives what it reads from its standard input, once its number is known: no more than a pipe holds.

    Raises ProaError `command-missing`, or what the disk said of the log.
    """
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError as error:
        raise explain(error, f"open the log {log}") from error
    try:
        child = subprocess.Popen(  # noqa: TID251  (this is the door)
            list(argv),
            stdin=subprocess.PIPE if told is not None else subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            pass_fds=tuple(pass_fds),
            env=env,
            start_new_session=True,
            creationflags=flags,
            cwd="/" if sys.platform != "win32" else None,
        )
    except FileNotFoundError as error:
        raise ProaError("command-missing", f"cannot run {argv[0]}", why="it is not installed") from error
    except OSError as error:
        raise explain(error, f"run {argv[0]}") from error
    finally:
        os.close(out)
    if told is not None and child.stdin is not None:
        with contextlib.suppress(OSError), child.stdin as pipe:  # it has ended
            pipe.write(told(child.pid))
    # Popen warns of a living child when it is collected; this one is meant to live, and wait_end reaps it.
    child.returncode = 0
    identity = identify(child.pid)
    return identity or ProcessIdentity(child.pid, "ended")


def raise_file_limit() -> int:
    """Let this process have as many open files as the system allows; how many that are, at the most 65536."""
    if sys.platform == "win32":
        return MOST_FILES  # of handles 16 million
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(most, MOST_FILES) if most != resource.RLIM_INFINITY else MOST_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    return wanted


def which(name: str) -> Path | None:
    """The program `name` on PATH, absolute entries only: never one of the current folder."""
    for entry in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if Path(entry).is_absolute() and (found := shutil.which(name, path=entry)):
            return Path(found)
    return None


def wait_until_gone(identity: ProcessIdentity, timeout: float) -> bool:
    """Block until the process is gone, at most `timeout` seconds; True when it is gone."""
    deadline = time.monotonic() + timeout
    while alive(identity):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True


def boot_id() -> str:
    """A word that changes with every boot of the host, or empty where the system has none."""
    if sys.platform != "linux":
        return ""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
