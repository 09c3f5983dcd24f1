"""What the systems want written so that the agent starts at login: pure renderers, one for each form."""

from __future__ import annotations

import plistlib
import subprocess
from collections.abc import Mapping, Sequence

_ABOUT = "Proa, containers in a virtual machine of your own"

_SERVICE = """\
[Unit]
Description={about}
Documentation=man:proa(1)
Requires={socket}
After={socket}

[Service]
Type=exec
ExecStart={command}
{environment}\
Restart=on-failure
RestartSec=1
# Machines outlive their agent: the next one takes them over. One that the kernel ends for its memory
# is started again by the agent, which must not be stopped for it.
KillMode=process
OOMPolicy=continue
# At the end of a session machines are stopped in order.
TimeoutStopSec=110

[Install]
WantedBy=default.target
Also={socket}
"""

_SOCKET = """\
[Unit]
Description={about} (sockets)
Documentation=man:proa(1)

[Socket]
ListenStream={agent}
ListenStream={engine}
{common}\
FileDescriptorName=proa

[Install]
WantedBy=sockets.target
"""

_ENGINE_SOCKET = """\
[Unit]
Description={about} (engine socket of %i)
Documentation=man:proa(1)

[Socket]
ListenStream={engine}
{common}\
FileDescriptorName=proa-engine
Service={service}

[Install]
WantedBy=sockets.target
"""

# The sockets are private, and stay while no agent is there. Without Accept one agent serves them all.
_COMMON = """\
SocketMode=0600
DirectoryMode=0700
Backlog=512
"""

_DESKTOP = """\
[Desktop Entry]
Type=Application
Name=Proa
Comment={about}
Exec={command}
Terminal=false
NoDisplay=true
X-GNOME-Autostart-enabled=true
"""


def systemd_units(unit: str, command: Sequence[str], run: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Names and contents of the user units. `run` is the runtime folder, `%t/proa` for the system's own.

    UNIT.socket has the agent's API and the engine of the machine `default`; UNIT-engine@NAME.socket the
    engine of another. All start UNIT.service, which gets them all (systemd.socket(5), `Service=`).
    """
    service, socket = f"{unit}.service", f"{unit}.socket"
    folder = run if run.startswith("%t/") else _unit_path(run)
    return {
        service: _SERVICE.format(
            about=_ABOUT,
            socket=socket,
            command=" ".join(_unit_word(word) for word in command),
            environment="".join(
                f"Environment={_unit_word(f'{key}={value}', command=False)}\n"
                for key, value in environ.items()
            ),
        ),
        socket: _SOCKET.format(
            about=_ABOUT,
            agent=f"{folder}/agent.sock",
            engine=f"{folder}/default/docker.sock",
            common=_COMMON,
        ),
        f"{unit}-engine@.socket": _ENGINE_SOCKET.format(
            about=_ABOUT, engine=f"{folder}/%i/docker.sock", common=_COMMON, service=service
        ),
    }


def _unit_path(path: str) -> str:
    """A path in `ListenStream=`, which knows specifiers but no quotes (systemd.unit(5))."""
    return path.replace("%", "%%")


def _unit_word(word: str, *, command: bool = True) -> str:
    """One word of `ExecStart=` (where `$` is a variable) or `Environment=` (where it is none)."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if command:
        escaped = escaped.replace("$", "$$")
    plain = escaped == word and word and not set(word) & set(" \t'")
    return word if plain else f'"{escaped}"'


def desktop_entry(command: Sequence[str]) -> str:
    """An entry for `~/.config/autostart` (freedesktop.org's Autostart and Desktop Entry specifications)."""
    return _DESKTOP.format(about=_ABOUT, command=" ".join(_desktop_word(word) for word in command))


def _desktop_word(word: str) -> str:
    """Quoted as an argument, and then escaped once more as a value of the file."""
    quoted = "".join(f"\\{char}" if char in '"`$\\' else char for char in word).replace("%", "%%")
    return '"' + quoted.replace("\\", "\\\\") + '"'


def launch_agent(label: str, command: Sequence[str], environ: Mapping[str, str], log: str) -> bytes:
    """A property list for `~/Library/LaunchAgents` (launchd.plist(5))."""
    return plistlib.dumps(
        {
            "Label": label,
            "ProgramArguments": list(command),
            "EnvironmentVariables": dict(environ),
            "RunAtLoad": True,
            # Again after a crash, not after an orderly end: a newer agent may have taken its place.
            "KeepAlive": {"SuccessfulExit": False},
            "AbandonProcessGroup": True,  # machines outlive their agent
            "ProcessType": "Interactive",
            "StandardErrorPath": log,
        }
    )


def run_value(command: Sequence[str]) -> str:
    """The command line of a value below the registry's `Run` key."""
    return subprocess.list2cmdline(command)
