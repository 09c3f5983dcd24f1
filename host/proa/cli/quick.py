"""What goes to the agent before a verb's imports, which take longer than the agent's answer.

`proa status`, which people, prompts and scripts ask most: the agent writes what is printed. And what `proa
start` asks for, so that the agent is at it while the verb comes up. Whatever is unusual (no agent, one of
another version, a flag, a wrong name) is left to the verb itself, which says it better.
"""

# ruff: noqa: PTH118, PTH116  (pathlib alone would take a third of the time)

from __future__ import annotations

import os
import sys

from proa import API_VERSION, __version__
from proa.model.errors import ProaError
from proa.model.names import DEFAULT_MACHINE, check_name
from proa.system.roots import run_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Mapping

TIMEOUT = 30.0  # seconds, as for any question to the agent
_MOST = 1 << 20  # bytes of an answer


def status(argv: list[str], environ: Mapping[str, str]) -> str | None:
    """What `proa status` with these arguments prints; None where the verb itself must look into it."""
    as_json = "--json" in argv
    names = [word for word in argv if word != "--json"]
    if len(names) > 1 or len(argv) > 2:
        return None
    name = names[0] if names else environ.get("PROA_MACHINE") or DEFAULT_MACHINE
    try:
        kind = "application/json" if as_json else "text/plain"
        body = _ask(run_folder(environ), f"/v1/machines/{check_name(name)}", kind)
    except (ProaError, OSError):
        return None
    if body is None or not as_json:
        return body
    import json

    return json.dumps(json.loads(body), indent=2, ensure_ascii=False)


def begin_start(argv: list[str], environ: Mapping[str, str]) -> int | None:
    """The descriptor of a connection on which an agent was asked for `proa start` with these arguments.

    None where there is none, or the verb itself must look into it.
    """
    name = argv[0] if argv else environ.get("PROA_MACHINE") or DEFAULT_MACHINE
    if len(argv) > 1:
        return None
    from proa.agent.choice import docker_choice

    try:
        head = f"POST /v1/machines/{check_name(name)}/start HTTP/1.1\r\nHost: agent\r\n"
        head += f"Proa-Docker: {docker_choice(environ)}\r\nContent-Length: 2\r\n\r\n{{}}"
        connection = _connect(run_folder(environ))
        if connection is None:
            return None
        connection.sendall(head.encode())
    except (ProaError, OSError):
        return None
    connection.settimeout(None)  # long work has no bound, it says that it goes on
    return connection.detach()


def _connect(folder: str) -> _socket.socket | None:
    """To the agent's socket, if the folder is the user's own. Raises OSError."""
    if sys.platform == "win32":
        return None  # the named pipe is a later issue
    import _socket

    if os.stat(folder).st_uid != os.geteuid():
        return None
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.settimeout(TIMEOUT)
    try:
        connection.connect(os.path.join(folder, "agent.sock"))
    except OSError:
        connection.close()
        raise
    return connection


def _ask(folder: str, path: str, kind: str) -> str | None:
    """The body of a good answer of an agent of this very version."""
    connection = _connect(folder)
    if connection is None:
        return None
    try:
        connection.send(f"GET {path} HTTP/1.0\r\nHost: agent\r\nAccept: {kind}\r\n\r\n".encode())
        answer = b""
        while (data := connection.recv(1 << 16)) and len(answer) < _MOST:
            answer += data
    finally:
        connection.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    good = lines[0].split(" ")[1:2] == ["200"] and f"Proa-Agent: {__version__} {API_VERSION}" in lines
    return body.decode() if good else None
