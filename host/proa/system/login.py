"""Starting the agent when the user logs in, by what the system has for that.

Linux: systemd's user manager, which then also listens on Proa's sockets before an agent is there; without
one an entry of the desktop's autostart. macOS: a launch agent. Windows: the registry's `Run` key.
Which machines the agent then starts is a setting of each machine (proa.machine.due).
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from proa.model.errors import ProaError
from proa.system import login_files
from proa.system.files import explain, write_atomic
from proa.system.paths import Places
from proa.system.processes import run, which

TIMEOUT = 20.0  # seconds; systemctl answers at once, or its manager hangs
_PACKAGED = ("/etc/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user", "/lib/systemd/user")
_RUN_KEY = r"Software\Microsoft\Windows\CurrentVersion\Run"


def enable() -> None:
    """Start the agent at every login from now on; nothing to do where it is so already.

    Raises ProaError `login-refused` with what the system said, `disk-full` …
    """
    place = _place()
    if sys.platform == "win32":
        if place.environ:
            raise _refused("the Run key carries no PROA_HOME", "start it without PROA_HOME")
        _set_run_value(place.name, login_files.run_value(place.command))
    elif sys.platform == "darwin":
        _write(place.launch_agent, place.render_launch_agent())
    elif systemctl := _systemctl():
        _install_units(place, systemctl)
        _ask(systemctl, "enable", f"{place.name}.service")
        place.desktop_entry.unlink(missing_ok=True)
    else:
        _write(place.desktop_entry, login_files.desktop_entry(place.desktop_command).encode())


def disable() -> None:
    """Do not start it at login any more; it goes on running now. Raises ProaError as `enable` does."""
    place = _place()
    if sys.platform == "win32":
        _set_run_value(place.name, None)
        return
    if sys.platform == "darwin":
        place.launch_agent.unlink(missing_ok=True)
        return
    place.desktop_entry.unlink(missing_ok=True)
    if (systemctl := _systemctl()) and is_enabled():
        # What a package has enabled for every user, the sockets, stays.
        _ask(systemctl, "disable", f"{place.name}.service")
        for name in place.units():
            # No daemon-reload: what runs keeps the unit that it has, and with it its orderly end at logout.
            (place.unit_folder / name).unlink(missing_ok=True)


def is_enabled() -> bool:
    """Whether the agent starts at login. Raises ProaError where the system cannot be asked."""
    place = _place()
    if sys.platform == "win32":
        return _run_value(place.name) is not None
    if sys.platform == "darwin":
        return place.launch_agent.exists()
    if place.desktop_entry.exists():
        return True
    systemctl = _systemctl()
    if systemctl is None:
        return False
    # systemctl(1): status 0 and a word that begins so for every way of being enabled.
    told = run([*systemctl, "is-enabled", f"{place.name}.service"], timeout=TIMEOUT)
    return told.status == 0 and told.stdout.startswith(b"enabled")


class _Place:
    """The names and files of this installation; one with a PROA_HOME of its own has its own."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.places = Places.current(environ)
        home = self.places.home
        self.environ = {} if home is None else {"PROA_HOME": str(home)}
        suffix = "" if home is None else f"-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}"
        self.name = f"proa{suffix}"
        config = environ.get("XDG_CONFIG_HOME", "")
        self.config = Path(config) if Path(config).is_absolute() else Path.home() / ".config"

    @property
    def command(self) -> list[str]:
        program = Path(sys.executable)
        windowless = program.with_name("pythonw.exe")
        return [str(windowless if windowless.exists() else program), "-m", "proa.agent"]

    @property
    def desktop_command(self) -> list[str]:
        if not self.environ:
            return self.command
        return ["env", *(f"{key}={value}" for key, value in self.environ.items()), *self.command]

    @property
    def unit_folder(self) -> Path:
        return self.config / "systemd/user"

    @property
    def desktop_entry(self) -> Path:
        return self.config / f"autostart/{self.name}.desktop"

    @property
    def launch_agent(self) -> Path:
        return Path.home() / f"Library/LaunchAgents/{self.name}.agent.plist"

    def render_launch_agent(self) -> bytes:
        log = str(self.places.agent_log)
        return login_files.launch_agent(f"{self.name}.agent", self.command, self.environ, log)

    def units(self) -> dict[str, str]:
        run_folder = "%t/proa" if self.places.home is None else str(self.places.run)
        return login_files.systemd_units(self.name, self.command, run_folder, self.environ)


def is_leaving() -> bool:
    """Whether the user's session is ending, so that the system ends what is left of it."""
    systemctl = _systemctl() if sys.platform == "linux" else None
    if systemctl is None:
        return False
    try:
        return run([*systemctl, "is-system-running"], timeout=TIMEOUT).stdout.strip() == b"stopping"
    except ProaError:
        return False


def listen_for(machine: str, *, wanted: bool) -> None:
    """Have systemd listen (or not) on that machine's engine socket from the next login on.

    Not at once: the agent has the socket now. Raises ProaError `login-refused`.
    """
    if sys.platform == "linux" and (systemctl := _systemctl()):
        _ask(systemctl, "enable" if wanted else "disable", f"{_place().name}-engine@{machine}.socket")


def _place() -> _Place:
    return _Place(os.environ)


def _systemctl() -> list[str] | None:
    """How to ask the user's manager; None where there is none (another init, a container, `su`)."""
    program = which("systemctl")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if program is None or not (Path(runtime) / "systemd/private").is_socket():
        return None
    return [str(program), "--user"]


def _install_units(place: _Place, systemctl: list[str]) -> None:
    """Write the units, unless a package brought those of this very installation."""
    program = Path(sys.executable).parent / "proa"
    if place.places.home is None and any(_starts(Path(folder), place, program) for folder in _PACKAGED):
        return
    for name, content in place.units().items():
        _write(place.unit_folder / name, content.encode())
    _ask(systemctl, "daemon-reload")


def _starts(folder: Path, place: _Place, program: Path) -> bool:
    """Whether the unit there starts the program `proa` that lies beside our interpreter."""
    try:
        unit = (folder / f"{place.name}.service").read_text()
        started = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
        return Path(started.removeprefix("ExecStart=").split()[0]).resolve() == program.resolve()
    except (OSError, ValueError, StopIteration, IndexError):
        return False


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, f"make the folder {path.parent}") from error
    write_atomic(path, content, mode=0o644)


def _ask(systemctl: list[str], *words: str) -> None:
    done = run([*systemctl, *words], timeout=TIMEOUT)
    if done.status != 0:
        told = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise _refused(
            told[-1] if told else f"exit status {done.status}", f"to see for yourself: {done.line}"
        )


def _refused(why: str, hint: str) -> ProaError:
    return ProaError("login-refused", "the start at login cannot be changed", why=why, hint=hint)


def _run_value(name: str) -> str | None:
    if sys.platform == "win32":
        import winreg

        try:
            with winreg.OpenKey(winreg.HKEY_CURRENT_USER, _RUN_KEY) as key:
                value, _ = winreg.QueryValueEx(key, name)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused(str(error), "look at the registry's Run key") from error
        return str(value)
    return None


def _set_run_value(name: str, value: str | None) -> None:
    if sys.platform == "win32":
        import winreg

        try:
            with winreg.CreateKey(winreg.HKEY_CURRENT_USER, _RUN_KEY) as key:
                if value is not None:
                    winreg.SetValueEx(key, name, 0, winreg.REG_SZ, value)
                elif _run_value(name) is not None:
                    winreg.DeleteValue(key, name)
        except OSError as error:
            raise _refused(str(error), "look at the registry's Run key") from error
