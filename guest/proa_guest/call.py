"""Calls: commands that the host runs in the guest as if they ran on the host, such as `proa docker` on a
host that has no Docker CLI.

A call's command sees the host's folders at the host's own paths (proa_guest.launch), and has a folder of its
own for as long as it runs:

    spec.json             what the launcher is told
    docker/config.json    the user's Docker settings, without keys and logins
    engine.sock           the machine's engine socket as the host has it: each connection claims a stream that
                          the host parked for this call (`reverse`), so mounts and ports are the host's matter
    credentials.sock      where Docker's credential helper (proa_guest.credential) asks the host's
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import deque
from collections.abc import Callable

from proa_guest import wire
from proa_guest.commands import module
from proa_guest.execute import ENVIRON, ExecEnd
from proa_guest.relay import End, reset
from proa_guest.share import FOLDER as HOST_FOLDERS

FOLDER = "/run/proa/calls"
PROGRAMS = "/usr/lib/proa/bin"  # docker-credential-proa
BUILDX_STATE = "/var/lib/proa/buildx"  # builders that a user makes stay, as they would on a host
DOCKER = "/usr/bin/docker"
HELPER = "proa"  # docker-credential-proa, by Docker's rule for such names
MOST_CALLS = 64
MOST_QUESTION = 64 << 10  # bytes that a credential helper may be given
# Of the host's environment, what is set here for the command, or means something on the host alone.
_OWN = ("PATH", "TMPDIR", "SHELL", "SSH_AUTH_SOCK", "PWD", "OLDPWD", "BUILDX_CONFIG")
_OWN_KINDS = ("LD_", "DYLD_", "PYTHON", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CERT", "DOCKER_TLS", "XDG_")


class Calls:
    """All calls that run."""

    def __init__(self, folder: str = FOLDER, launcher: list[str] | None = None) -> None:
        self._folder = folder
        self._launcher = launcher or module("proa_guest.launch")
        self._running: dict[str, Call] = {}
        _remove(folder)  # what an agent before this one left

    async def begin(self, content: dict[str, object]) -> CallEnd:
        """The end of a stream whose command begins with the connection. Raises WireError, OSError."""
        name = content.get("call")
        if not isinstance(name, str) or not (name.isascii() and name.isalnum()) or len(name) > 64:
            raise wire.WireError("the call has no name")
        if name in self._running or len(self._running) >= MOST_CALLS:
            raise wire.WireError("there is such a call already, or there are too many")
        spec = Spec(content)
        call = self._running[name] = Call(f"{self._folder}/{name}", lambda: self._forget(name))
        try:
            await call.open(spec)
        except BaseException:
            call.close()
            raise
        return CallEnd(spec, call, self._launcher)

    def parked(self, content: dict[str, object]) -> asyncio.Protocol:
        """The end of a stream that the host parks for a call. Raises WireError."""
        call = self._running.get(str(content.get("call")))
        if call is None or content.get("kind") != "engine":
            raise wire.WireError("there is no such call")
        return _Waiting(call, call.parked)

    def _forget(self, name: str) -> None:
        self._running.pop(name, None)


class Spec:
    """What the host asks for, checked. Raises WireError."""

    def __init__(self, content: dict[str, object]) -> None:
        self.argv = [DOCKER, *_words(content.get("argv"))]
        self.cwd = str(content.get("cwd") or "")  # empty: the user's folder is not shared
        self.home = str(content.get("home") or "/root")
        self.note = str(content.get("note") or "")[:2000]
        self.folders = [tuple(_words(pair)) for pair in _list(content.get("folders"))]
        environ = content.get("environ")
        settings = content.get("settings")
        terminals = _list(content.get("terminals"))
        if not isinstance(environ, dict) or not isinstance(settings, dict) or len(terminals) != 3:
            raise wire.WireError("the call is not whole")
        if any(len(pair) != 2 for pair in self.folders):
            raise wire.WireError("a folder of the host's has no place")
        self.environ = {
            str(key): str(value)
            for key, value in environ.items()
            if key not in _OWN and not str(key).startswith(_OWN_KINDS) and "\0" not in f"{key}{value}"
        }
        self.settings = settings
        self.terminals = (terminals[0] is True, terminals[1] is True, terminals[2] is True)
        self.size = {"rows": content.get("rows"), "columns": content.get("columns")}

    def told(self, folder: str) -> dict[str, object]:
        """What the launcher is told for a call with that folder."""
        environ = {
            **self.environ,
            "PATH": f"{PROGRAMS}:{ENVIRON['PATH']}",
            "HOME": self.home,
            "DOCKER_HOST": f"unix://{folder}/engine.sock",
            "DOCKER_CONFIG": f"{folder}/docker",
            "BUILDX_CONFIG": BUILDX_STATE,
            "PROA_CALL": str(folder),
            **({"PWD": self.cwd} if self.cwd else {}),
        }
        return {
            "argv": self.argv,
            "environ": environ,
            "cwd": self.cwd,
            "empty": f"{folder}/empty",
            "note": self.note,
            "folders": [[HOST_FOLDERS + source, target] for source, target in self.folders],
            "terminal": next((number for number, shown in enumerate(self.terminals) if shown), None),
        }


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise wire.WireError("a list is missing")
    return value


def _words(value: object) -> list[str]:
    words = _list(value)
    found = [word for word in words if isinstance(word, str) and "\0" not in word]
    if len(found) != len(words):
        raise wire.WireError("what should be words is not")
    return found


class Call:
    """One call's folder and sockets, and who waits at them. `ask` brings a question to the host."""

    def __init__(self, folder: str, ended: Callable[[], None]) -> None:
        self.folder = folder
        self.ask: Callable[[bytes], None] = lambda frame: None
        self._ended = ended
        self._servers: list[asyncio.Server] = []
        self._clients: deque[End] = deque()  # of the engine socket, that no stream serves yet
        self._streams: deque[End] = deque()  # of the host's, that no client has claimed
        self._questions: dict[int, _Question] = {}
        self._count = 0

    async def open(self, spec: Spec) -> None:
        """Make the folder and listen. Raises OSError."""
        os.makedirs(self.folder, mode=0o700)  # noqa: PTH103
        for name in ("docker", "empty"):
            os.mkdir(f"{self.folder}/{name}", 0o700)  # noqa: PTH102
        _write(f"{self.folder}/docker/config.json", {**spec.settings, "credsStore": HELPER})
        _write(f"{self.folder}/spec.json", spec.told(self.folder))
        loop = asyncio.get_running_loop()
        for name, end in (
            ("engine.sock", lambda: _Waiting(self, self.came)),
            ("credentials.sock", lambda: _Question(self)),
        ):
            self._servers.append(await loop.create_unix_server(end, f"{self.folder}/{name}"))

    def close(self) -> None:
        """Nothing of it is left."""
        for server in self._servers:
            server.close()
        waits: list[End | _Question] = [*self._clients, *self._streams, *self._questions.values()]
        for waiting in waits:
            if waiting.transport is not None:
                reset(waiting.transport)
        _remove(self.folder)
        self._ended()

    # -- the engine's socket ------------------------------------------------------------------

    def came(self, client: End) -> None:
        self._clients.append(client)
        self._join()

    def parked(self, stream: End) -> None:
        self._streams.append(stream)
        self._join()

    def _join(self) -> None:
        while self._clients and self._streams:
            client, stream = self._clients.popleft(), self._streams.popleft()
            assert stream.transport is not None
            stream.transport.write(wire.CLAIM)
            stream.join(client)

    def gone(self, end: End) -> None:
        """It waits no more, if it did."""
        for waiting in (self._clients, self._streams):
            with contextlib.suppress(ValueError):
                waiting.remove(end)

    # -- credentials --------------------------------------------------------------------------

    def question(self, asks: _Question, action: str, text: str) -> int:
        """Bring it to the host; the number of the answer that `answered` then gives it."""
        self._count += 1
        self._questions[self._count] = asks
        content = {"id": self._count, "action": action, "input": text}
        self.ask(wire.frame(wire.ASK, json.dumps(content).encode()))
        return self._count

    def unasked(self, number: int) -> None:
        self._questions.pop(number, None)

    def answered(self, payload: bytes) -> None:
        """The host's answer; who asked may have gone. Raises WireError."""
        try:
            content = json.loads(payload)
            asks = self._questions.pop(content["id"], None)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise wire.WireError("an answer cannot be read") from error
        if asks is not None and asks.transport is not None:
            asks.transport.write(payload)
            asks.transport.close()


class _Waiting(End):
    """Who connects to a call's engine socket, or a stream of the host's that serves one of them."""

    def __init__(self, call: Call, came: Callable[[End], None]) -> None:
        super().__init__(lambda: call.gone(self))
        self._came = came

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._came(self)


class _Question(asyncio.Protocol):
    """A credential helper: one JSON object {"action": …, "input": …}, ended by a half-close."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._text = bytearray()
        self._number = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._text += data
        if len(self._text) > MOST_QUESTION and self.transport is not None:
            self.transport.abort()

    def eof_received(self) -> bool:
        try:
            content = json.loads(self._text)
            self._number = self._call.question(self, str(content["action"]), str(content["input"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            return False
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._call.unasked(self._number)


class CallEnd(ExecEnd):
    """A call's stream: frames as of any command, and questions for credentials."""

    def __init__(self, spec: Spec, call: Call, launcher: list[str]) -> None:
        super().__init__({**spec.size, "argv": [*launcher, f"{call.folder}/spec.json"]})
        self._terminals = spec.terminals
        self._call = call
        call.ask = self._ask

    def _spawn(self, inner: list[int]) -> int:
        return self._spawn_as(self._argv, inner, setsid=True)  # the launcher takes the terminal itself

    def _ask(self, frame: bytes) -> None:
        if self._transport is not None:
            self._transport.write(frame)

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == wire.ANSWER:
            self._call.answered(payload)
        else:
            super()._take(kind, payload)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._call.close()


def _write(path: str, content: object) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(content, file)


def _remove(folder: str) -> None:
    """A folder with all that is in it. shutil has this too, but takes an emulated boot 0.2 s to import."""
    for path, folders, files in os.walk(folder, topdown=False):
        for name in (*files, *folders):
            inner = f"{path}/{name}"
            with contextlib.suppress(OSError):
                (os.unlink if os.path.islink(inner) or name in files else os.rmdir)(inner)  # noqa: PTH114
    with contextlib.suppress(OSError):
        os.rmdir(folder)  # noqa: PTH106
