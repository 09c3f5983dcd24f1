"""A real `systemd --user` of a test's own: its runtime folder, its home, and an end without leftovers."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL

from tests.support.commands import Result, run, start
from tests.support.homes import wait_until

MANAGER = "/lib/systemd/systemd"
_NOT_OURS = ("PROA_", "DOCKER_", "XDG_", "DBUS_", "LISTEN_")
# It refuses to run where systemd did not boot the system, which it sees by this folder (sd_booted(3)).
_BOOTED = "mount -t tmpfs none /run/systemd && mkdir /run/systemd/system && exec {} --user"


@dataclass
class UserManager:
    """`environ` is the user's: HOME, and XDG_RUNTIME_DIR below a short path of /tmp."""

    folder: Path
    environ: dict[str, str]
    pid: int = 0

    @property
    def runtime(self) -> Path:
        return self.folder / "run"

    def run(self, *argv: str, timeout: float = 60, **environ: str) -> Result:
        """A command of the user's, where the system looks as if systemd had booted it."""
        inside = ["nsenter", f"--target={self.pid}", "--mount", *argv]
        return run(inside, timeout=timeout, env={**self.environ, **environ})

    @contextmanager
    def session(self) -> Iterator[None]:
        """From a login to its logout."""
        self.runtime.mkdir(mode=0o700)
        try:
            argv = ["unshare", "--mount", "sh", "-c", _BOOTED.format(MANAGER)]
            with start(argv, env=self.environ, stdout=DEVNULL, stderr=DEVNULL) as manager:
                self.pid = manager.pid
                wait_until(self._is_up, 60, "systemd --user is up")
                yield
                manager.send_signal(signal.SIGTERM)
                manager.wait(60)
        finally:
            shutil.rmtree(self.runtime, ignore_errors=True)

    def _is_up(self) -> bool:
        told = self.run("systemctl", "--user", "is-system-running").out
        return told in ("running", "degraded")


@contextmanager
def user_manager() -> Iterator[UserManager]:
    """Ready for a first session; what its services left is not ended here."""
    folder = Path("/tmp") / f"proa-login-{secrets.token_hex(3)}"
    (folder / "home").mkdir(parents=True, mode=0o700)
    environ = {
        **{key: value for key, value in os.environ.items() if not key.startswith(_NOT_OURS)},
        "HOME": str(folder / "home"),
        "XDG_RUNTIME_DIR": str(folder / "run"),
    }
    try:
        yield UserManager(folder, environ)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
