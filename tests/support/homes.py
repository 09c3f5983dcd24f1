"""A PROA_HOME of its own for a test: the real CLI in it, and an orderly end of all it started."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.caches import cache_folder

START_TIMEOUT = 300.0  # seconds: emulated guests need 20, a busy machine several times that
PROA = str(Path(sys.executable).with_name("proa"))
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


class Home:
    """One installation below a short path of /tmp (a socket's path has a limit)."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path("/tmp") / f"proa-{secrets.token_hex(4)}"
        # Beside it, as a user's is: `proa reset` leaves nothing of the home.
        self.docker_config = self.folder.with_name(f"{self.folder.name}-docker")
        self.environ = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PROA_", "DOCKER_"))},
            "PROA_HOME": str(self.folder),
            "DOCKER_CONFIG": str(self.docker_config),
        }

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def proa(
        self, *argv: str, timeout: float = START_TIMEOUT, stdin: str | None = None, **environ: str
    ) -> Result:
        """`proa ARGV`, as a user runs it."""
        done = subprocess.run(
            [PROA, *argv],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            env={**self.environ, **environ},
            text=True,
            errors="replace",
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def ok(self, *argv: str, timeout: float = START_TIMEOUT, **environ: str) -> str:
        """`proa ARGV`, which must succeed; its output."""
        result = self.proa(*argv, timeout=timeout, **environ)
        assert result.status == 0, f"proa {argv}: {result}\n{self.last_words()}"
        return result.out

    def status(self, name: str = "default") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("status", name, "--json", timeout=30))
        return found

    def import_image(self, source: Path, *, proved: bool = True) -> None:
        """Import a built image; its files are copied and checked.

        `proved`: an accelerator that another home has tried with its kernel need not be tried again.
        """
        subprocess.run(
            [sys.executable, "-m", "proa.images", str(source)],
            env=self.environ,
            check=True,
            capture_output=True,
        )
        if proved and _proof().exists():
            (self.folder / "cache").mkdir(mode=0o700, exist_ok=True)
            shutil.copyfile(_proof(), self.folder / "cache/acceleration.json")

    def agent_pid(self) -> int | None:
        """The pid that the agent's lock names, if that process lives."""
        try:
            pid = int((self.folder / "run/agent.lock").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if b"proa.agent" in command or b"proa\0agent" in command else None

    def hypervisors(self) -> list[int]:
        """Pids of QEMU processes whose command line names this home."""
        return hypervisors(self.folder)

    def share_servers(self) -> list[int]:
        """Pids of share servers that were started from this home."""
        mine = f"PROA_HOME={self.folder}".encode()
        return [
            pid
            for pid, command in _commands()
            if b"proa.shares" in command and mine in _read(pid, "environ").split(b"\0")
        ]

    def last_words(self, lines: int = 25) -> str:
        """The ends of all logs, for a failure's report."""
        told = []
        for log in sorted(self.folder.glob("logs/*")) + sorted(self.folder.glob("run/*/qemu.log")):
            tail = log.read_text(errors="replace").splitlines()[-lines:]
            told += [f"--- {log.name}", *tail]
        return "\n".join(told)

    def close(self) -> None:
        """End what this home started, and remove it."""
        if (pid := self.agent_pid()) is not None:
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: self.agent_pid() is None, 20, "the agent ended")
        for pid in self.hypervisors():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.hypervisors(), 20, "the hypervisors ended")
        with contextlib.suppress(FileNotFoundError):
            _proof().parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / "cache/acceleration.json", _proof())
        for folder in (self.folder, self.docker_config):
            shutil.rmtree(folder, ignore_errors=True)


def _proof() -> Path:
    """What a home has found of this host's accelerators; Proa itself sees whether it still holds."""
    return cache_folder("proofs") / "acceleration.json"


def hypervisors(folder: Path) -> list[int]:
    """Pids of QEMU processes whose command line names the installation in `folder`."""
    return [
        pid
        for pid, command in _commands()
        if b"qemu-system" in command[0] and str(folder).encode() in b"\0".join(command)
    ]


def _commands() -> Iterator[tuple[int, list[bytes]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name), _read(int(entry.name), "cmdline").split(b"\0")


def _read(pid: int, what: str) -> bytes:
    """What the system tells of a process; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""


def wait_until(condition: Any, timeout: float, what: str) -> Any:
    """The condition's first true value. Fails the test after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
        time.sleep(0.05)
