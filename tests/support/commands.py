"""The tests' one door for subprocesses: what ran, what it said, and how long it took."""

from __future__ import annotations

import os
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

Process = subprocess.Popen[bytes]
MOST_SHOWN = 4000  # characters of each stream in a failure


@dataclass(frozen=True)
class Result:
    """A finished command. `status` is the shell's: 128+n after signal n."""

    argv: tuple[str, ...]
    status: int
    raw: bytes
    raw_err: bytes
    seconds: float

    @property
    def out(self) -> str:
        return self.raw.decode(errors="replace").strip()

    @property
    def err(self) -> str:
        return self.raw_err.decode(errors="replace").strip()

    def check(self, status: int = 0) -> Result:
        assert self.status == status, self.report(f"status {self.status} and not {status}")
        return self

    def report(self, what: str) -> str:
        return (
            f"{what} after {self.seconds:.1f} s: {shlex.join(self.argv)}\n"
            f"--- out\n{self.out[-MOST_SHOWN:]}\n--- err\n{self.err[-MOST_SHOWN:]}"
        )


def resident(pid: int) -> float:
    """A process' memory in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    input: bytes | str | IO[bytes] | None = None,
    cwd: Path | None = None,
) -> Result:
    """Run to its end. A command that takes longer than `timeout` seconds fails the test with its output."""
    started = time.monotonic()
    stdin, given = _stdin(input)
    with start(argv, env=env, stdin=stdin, cwd=cwd) as process:
        try:
            raw, raw_err = process.communicate(given, timeout=timeout)
        except subprocess.TimeoutExpired:
            _end(process)
            raw, raw_err = process.communicate()
            late = Result(tuple(argv), 124, raw, raw_err, time.monotonic() - started)
            raise AssertionError(late.report("not done")) from None
    return Result(tuple(argv), _shell_status(process.returncode), raw, raw_err, time.monotonic() - started)


def run_until(
    argv: Sequence[str],
    said: bytes,
    *,
    timeout: float,
    typed: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Result:
    """As `run`, with a standard input that gets `typed` and stays open until `said` has come out (on either
    stream): what a container writes right before its end may be lost in an engine under load (moby's issues
    45689 and 49655)."""
    started = time.monotonic()
    out: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    with (
        start(argv, env=env, stdin=subprocess.PIPE, cwd=cwd) as process,
        selectors.DefaultSelector() as ready,
    ):
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(typed)
        process.stdin.flush()
        for name, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
            ready.register(stream, selectors.EVENT_READ, name)
        while ready.get_map():
            events = ready.select(max(0.0, started + timeout - time.monotonic()))
            for key, _ in events:
                data = os.read(key.fd, 1 << 16)
                out[key.data].extend(data)
                if not data:
                    ready.unregister(key.fileobj)
            if any(said in stream for stream in out.values()):
                process.stdin.close()
            raw, raw_err = (bytes(stream) for stream in out.values())
            result = Result(tuple(argv), 124, raw, raw_err, time.monotonic() - started)
            assert events, result.report(f"not done, with {said!r} to come")
        process.wait(max(1.0, started + timeout - time.monotonic()))
    return replace(result, status=_shell_status(process.returncode))


@contextmanager
def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] = subprocess.PIPE,
    cwd: Path | None = None,
) -> Iterator[Process]:
    """A command in its own session, ended with the block."""
    process = subprocess.Popen(
        list(argv), env=env, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, start_new_session=True
    )
    try:
        yield process
    finally:
        _end(process)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _stdin(given: bytes | str | IO[bytes] | None) -> tuple[int | IO[bytes], bytes | None]:
    if given is None:
        return subprocess.DEVNULL, None
    if isinstance(given, str):
        return subprocess.PIPE, given.encode()
    if isinstance(given, bytes):
        return subprocess.PIPE, given
    return given, None


def _end(process: Process) -> None:
    if process.poll() is not None:
        return
    for how, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
        return


def _shell_status(code: int) -> int:
    return 128 - code if code < 0 else code
