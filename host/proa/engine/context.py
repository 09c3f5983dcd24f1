"""Docker contexts: what lets a plain `docker --context proa` find a machine's engine.

Formats as the Docker CLI reads them: `contexts/meta/SHA256-OF-NAME/meta.json` with the endpoint, and
`currentContext` in `config.json` (docs.docker.com/reference/cli/docker/context). Both are the user's files:
what another wrote is left alone, and a file that cannot be read is never written.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from proa.model.errors import ProaError
from proa.model.names import DEFAULT_MACHINE
from proa.system.docker_settings import DockerSettings
from proa.system.files import explain, read_bytes, remove_tree, write_atomic
from proa.system.sockets import answers

DEFAULT_SOCKET = Path("/var/run/docker.sock")
_MARK = "Proa"  # in a context's metadata: the engine socket that it was made for


def context_name(machine: str) -> str:
    return "proa" if machine == DEFAULT_MACHINE else f"proa-{machine}"


def render(machine: str, socket: Path) -> bytes:
    """The context's meta.json."""
    endpoint = {"Host": f"unix://{socket}", "SkipTLSVerify": False}
    metadata = {"Description": f"Proa's machine {machine}", _MARK: str(socket)}
    content = {"Name": context_name(machine), "Metadata": metadata, "Endpoints": {"docker": endpoint}}
    return json.dumps(content).encode()


class DockerConfig:
    """The Docker CLI's folder of one user (~/.docker, or DOCKER_CONFIG)."""

    def __init__(self, folder: Path, default_socket: Path | None = None) -> None:
        self._folder = folder
        self._file = DockerSettings(folder)
        self._default_socket = default_socket or DEFAULT_SOCKET

    def publish(self, machine: str, socket: Path, *, may_be_current: bool) -> bool:
        """Make the machine's context; True if it has become the current one.

        It becomes that only when it is new, nothing else is chosen, and no engine answers at Docker's own
        socket. Raises ProaError `context-taken` (it is another's), `docker-config-corrupt`, or the disk's.
        """
        place = self._place(machine)
        owner = self._owner(place)
        if owner == str(socket) and place.exists() and read_bytes(place) == render(machine, socket):
            return False
        if place.exists() and owner != str(socket) and (not owner or Path(owner).exists()):
            raise ProaError(
                "context-taken",
                f"the docker context {context_name(machine)!r} was left as it is",
                why=f"it belongs to {owner}" if owner else "Proa did not make it",
                hint=f"use the engine's socket instead: DOCKER_HOST=unix://{socket}",
            )
        new = not place.exists()
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise explain(error, f"make the folder {place.parent}") from error
        write_atomic(place, render(machine, socket))
        if not new or not may_be_current or answers(self._default_socket):
            return False
        settings = self._file.read()
        if settings.get("currentContext"):
            return False
        self._file.write({**settings, "currentContext": context_name(machine)})
        return True

    def withdraw(self, machine: str, socket: Path) -> None:
        """Remove the machine's context if it is still ours, and let go of it where it is the current one.

        Raises ProaError `docker-config-corrupt`, or what the disk says.
        """
        place = self._place(machine)
        if self._owner(place) != str(socket):
            return
        remove_tree(place.parent)
        remove_tree(self._folder / "contexts/tls" / place.parent.name)
        settings = self._file.read()
        if settings.get("currentContext") == context_name(machine):
            # Docker refuses to work with a current context that does not exist.
            self._file.write({key: value for key, value in settings.items() if key != "currentContext"})

    def _place(self, machine: str) -> Path:
        digest = hashlib.sha256(context_name(machine).encode()).hexdigest()
        return self._folder / "contexts/meta" / digest / "meta.json"

    @staticmethod
    def _owner(place: Path) -> str:
        """The socket that the context was made for; empty where Proa did not make it, or there is none."""
        try:
            content = json.loads(read_bytes(place))
            return str(content["Metadata"][_MARK])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return ""
