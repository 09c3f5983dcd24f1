"""The agent's API from the outside: what the CLI (and later the desktop) talks through."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from proa import API_VERSION, __version__
from proa.agent.choice import docker_choice
from proa.model.api import (
    DOCKER_HEADER,
    VERSION_HEADER,
    AgentInfo,
    ConfigChange,
    ConfigChanged,
    DockerRequest,
    Done,
    ExecRequest,
    Failed,
    Message,
    Progress,
    SettingValue,
    SharesStatus,
    StopRequest,
)
from proa.model.doctor import CheckResult
from proa.model.errors import ProaError
from proa.model.events import Event
from proa.model.image import BuildRequest, FetchRequest, ImageInfo, ImportRequest
from proa.model.machine import MachineOptions, MachineStatus, PublishedPort
from proa.model.problem import Problem
from proa.system.paths import Places

T = TypeVar("T")

CONFIGURE_TIMEOUT = 400.0  # seconds; a running engine checks a change, and takes it over
ANSWER_TIMEOUT = 30.0  # seconds for a question; long work has none, it says that it goes on
MOST_BODY = 16 << 20  # bytes of an answer
DOCTOR_TIMEOUT = 60.0  # its checks are bounded by themselves


class _Connection(http.client.HTTPConnection):
    """HTTP over the agent's Unix socket."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("agent", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        if sys.platform == "win32":
            raise ProaError("not-on-windows", "the agent's named pipe is not there yet")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask_socket(path: Path, target: str, timeout: float) -> bytes:
    """The body of GET `target` from an HTTP server at a Unix socket (the engine's). Raises ProaError."""
    connection = _Connection(path, timeout)
    try:
        connection.request("GET", target, headers={"Host": "docker"})
        response = connection.getresponse()
        body = response.read(MOST_BODY)
    except (OSError, http.client.HTTPException) as error:
        raise ProaError("socket-silent", f"nobody answers at {path}", why=str(error)) from error
    finally:
        connection.close()
    if response.status >= 400:
        told = body[:300].decode("utf-8", "replace")
        raise ProaError("socket-refused", f"{target} was refused", why=f"status {response.status}: {told}")
    return body


class AgentClient:
    """One conversation with the agent. Every method raises ProaError where it fails."""

    def __init__(self, places: Places, timeout: float = ANSWER_TIMEOUT) -> None:
        self._path = places.agent_socket
        self._timeout = timeout

    def __enter__(self) -> AgentClient:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def _ask(
        self, method: str, path: str, body: bytes | None = None, timeout: float | None = ANSWER_TIMEOUT
    ) -> http.client.HTTPResponse:
        connection = _Connection(self._path, timeout)
        try:
            connection.request(method, path, body=body, headers={DOCKER_HEADER: docker_choice(os.environ)})
            response = connection.getresponse()
            if response.status >= 400:
                raise _problem(response.read())
        except (OSError, http.client.HTTPException) as error:
            raise _gone(error) from error
        return response

    def _get(self, path: str, kind: type[T], timeout: float | None = None) -> T:
        with contextlib.closing(self._ask("GET", path, timeout=timeout or self._timeout)) as response:
            try:
                return msgspec.json.decode(response.read(), type=kind)
            except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
                raise _gone(error) from error

    def info(self) -> AgentInfo:
        return self._get("/v1/agent", AgentInfo)

    def machines(self) -> list[MachineStatus]:
        return self._get("/v1/machines", list[MachineStatus])

    def status(self, name: str) -> MachineStatus:
        return self._get(_machine(name), MachineStatus)

    def ports(self, name: str) -> list[PublishedPort]:
        return self._get(_machine(name, "ports"), list[PublishedPort])

    def shares(self, name: str) -> SharesStatus:
        return self._get(_machine(name, "shares"), SharesStatus)

    def doctor(self, name: str) -> list[CheckResult]:
        """What the agent's checks found; they need a while where a guest does not answer."""
        return self._get(_machine(name, "doctor"), list[CheckResult], DOCTOR_TIMEOUT)

    def config(self, name: str, *, reveal: bool = False) -> list[SettingValue]:
        return self._get(_machine(name, f"config?reveal={int(reveal)}"), list[SettingValue])

    def setting(self, name: str, key: str) -> SettingValue:
        return self._get(_machine(name, "config", quote(key, safe="")), SettingValue)

    def configure(self, name: str, changes: dict[str, Any]) -> ConfigChanged:
        """Set keys (None: take away); none of them where one is refused."""
        body = msgspec.json.encode(ConfigChange(changes=changes))
        with contextlib.closing(
            self._ask("POST", _machine(name, "config"), body, timeout=CONFIGURE_TIMEOUT)
        ) as response:
            return msgspec.json.decode(response.read(), type=ConfigChanged)

    def known(self, name: str) -> None:
        """Raise ProaError `machine-unknown` unless there is such a machine."""
        self.ports(name)

    # -- long work ----------------------------------------------------------------------------

    def create(self, name: str, options: MachineOptions, say: Callable[[Progress], None]) -> MachineStatus:
        return self._work("POST", _machine(name, "create"), msgspec.json.encode(options), say)

    def start(
        self, name: str, say: Callable[[Progress], None], asked: socket.socket | None = None
    ) -> MachineStatus:
        """`asked`: a connection on which the agent was asked for this already (proa.cli.quick)."""
        if asked is not None and (response := _went_ahead(asked)) is not None:
            return self._follow(response, say, MachineStatus)
        return self._work("POST", _machine(name, "start"), b"{}", say)

    def stop(self, name: str, request: StopRequest, say: Callable[[Progress], None]) -> MachineStatus:
        return self._work("POST", _machine(name, "stop"), msgspec.json.encode(request), say)

    def suspend(self, name: str, say: Callable[[Progress], None]) -> MachineStatus:
        return self._work("POST", _machine(name, "suspend"), None, say)

    def restart(self, name: str, request: StopRequest, say: Callable[[Progress], None]) -> MachineStatus:
        return self._work("POST", _machine(name, "restart"), msgspec.json.encode(request), say)

    def delete(self, name: str, say: Callable[[Progress], None]) -> MachineStatus:
        return self._work("DELETE", _machine(name), None, say)

    def _work(
        self, method: str, path: str, body: bytes | None, say: Callable[[Progress], None]
    ) -> MachineStatus:
        return self._long(method, path, body, say, MachineStatus)

    def _long(
        self, method: str, path: str, body: bytes | None, say: Callable[[Progress], None], kind: type[T]
    ) -> T:
        """What the work returns at its end, and meanwhile what it says."""
        return self._follow(self._ask(method, path, body, timeout=None), say, kind)

    @staticmethod
    def _follow(response: http.client.HTTPResponse, say: Callable[[Progress], None], kind: type[T]) -> T:
        with contextlib.closing(response):
            for line in _lines(response):
                message: Message = msgspec.json.decode(line, type=Message)
                if isinstance(message, Progress):
                    say(message)
                elif isinstance(message, Failed):
                    raise message.problem.error()
                elif isinstance(message, Done):
                    return msgspec.json.decode(message.result, type=kind)
        raise _gone(None)

    # -- images -------------------------------------------------------------------------------

    def images(self) -> list[ImageInfo]:
        """All guest images, the newest first."""
        return self._get("/v1/images", list[ImageInfo])

    def build_image(self, request: BuildRequest, say: Callable[[Progress], None]) -> ImageInfo:
        return self._long("POST", "/v1/images/build", msgspec.json.encode(request), say, ImageInfo)

    def fetch_image(self, request: FetchRequest, say: Callable[[Progress], None]) -> ImageInfo:
        return self._long("POST", "/v1/images/fetch", msgspec.json.encode(request), say, ImageInfo)

    def import_image(self, request: ImportRequest, say: Callable[[Progress], None]) -> ImageInfo:
        return self._long("POST", "/v1/images/import", msgspec.json.encode(request), say, ImageInfo)

    def verify_image(self, identity: str, say: Callable[[Progress], None]) -> ImageInfo:
        """Check an image's signature and every byte; an empty `identity` is the newest."""
        query = urlencode({"id": identity})
        return self._long("POST", f"/v1/images/verify?{query}", None, say, ImageInfo)

    def remove_image(self, identity: str, say: Callable[[Progress], None]) -> ImageInfo:
        return self._long("DELETE", f"/v1/images/{quote(identity, safe='')}", None, say, ImageInfo)

    def prune_images(self, say: Callable[[Progress], None]) -> list[ImageInfo]:
        """Remove the images that no machine uses, but the newest; those that went."""
        return self._long("POST", "/v1/images/prune", None, say, list[ImageInfo])

    # -- streams ------------------------------------------------------------------------------

    def logs(self, name: str, source: str, lines: int, follow: bool) -> Iterator[bytes]:
        """A log in pieces; with `follow` without an end."""
        query = urlencode({"source": source, "lines": lines, "follow": int(follow)})
        timeout = None if follow else self._timeout
        with contextlib.closing(
            self._ask("GET", f"{_machine(name, 'logs')}?{query}", timeout=timeout)
        ) as response:
            try:
                while chunk := response.read1(64 << 10):
                    yield chunk
            except (OSError, http.client.HTTPException) as error:
                raise _gone(error) from error

    def events(self, lines: int, *, follow: bool = False, machine: str = "") -> Iterator[Event]:
        """The newest `lines` events, oldest first; with `follow` without an end."""
        query = urlencode({"lines": lines, "follow": int(follow), "machine": machine})
        timeout = None if follow else ANSWER_TIMEOUT
        with contextlib.closing(self._ask("GET", f"/v1/events?{query}", timeout=timeout)) as response:
            for line in _lines(response):
                try:
                    yield msgspec.json.decode(line, type=Event)
                except msgspec.MsgspecError as error:
                    raise _gone(error) from error

    def execute(self, name: str, request: ExecRequest, timeout: float | None = None) -> socket.socket:
        """A socket that speaks the link's exec frames with a command in the guest."""
        return self._upgrade(_machine(name, "exec"), msgspec.json.encode(request), timeout)

    def docker(self, name: str, request: DockerRequest) -> socket.socket:
        """The same with the guest's Docker CLI."""
        return self._upgrade(_machine(name, "docker"), msgspec.json.encode(request), None)

    def _upgrade(self, path: str, body: bytes, timeout: float | None) -> socket.socket:
        connection = _Connection(self._path, timeout)
        try:
            connection.connect()
            assert connection.sock is not None
            head = f"POST {path} HTTP/1.1\r\nHost: agent\r\nConnection: Upgrade\r\n"
            head += f"Upgrade: proa-exec\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sock.sendall(head.encode() + body)
            return _upgraded(connection.sock)
        except OSError as error:
            raise _gone(error) from error


def _went_ahead(connection: socket.socket) -> http.client.HTTPResponse | None:
    """The answer to what was asked before this client was there; None where it is not to be had."""
    with connection:
        response = http.client.HTTPResponse(connection, method="POST")
    try:
        response.begin()
        # An agent of another version has been replaced since.
        ours = response.headers.get(VERSION_HEADER) == f"{__version__} {API_VERSION}"
        if ours and response.status >= 400:
            raise _problem(response.read())
    except (OSError, http.client.HTTPException):
        ours = False
    if ours:
        return response
    response.close()
    return None


def _upgraded(connection: socket.socket) -> socket.socket:
    """The connection behind a 101; any other answer is a problem."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise _gone(None)
        head += byte
    if head.split(b" ", 2)[1] == b"101":
        return connection
    body = b""
    while data := connection.recv(64 << 10):
        body += data
        with contextlib.suppress(msgspec.MsgspecError):
            return_problem = _problem(body)
            if return_problem.code != "agent-unclear":
                raise return_problem
    raise _gone(None)


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            line = response.readline()
        except (OSError, http.client.HTTPException) as error:
            raise _gone(error) from error
        if not line:
            return
        yield line


def _machine(name: str, *rest: str) -> str:
    return "/".join(["/v1/machines", quote(name, safe=""), *rest])


def _problem(body: bytes) -> ProaError:
    try:
        return msgspec.json.decode(body, type=Problem).error()
    except msgspec.MsgspecError:
        told = body[:200].decode("utf-8", "replace")
        return ProaError("agent-unclear", "the agent's answer cannot be read", why=told)


def _gone(error: object) -> ProaError:
    return ProaError(
        "agent-gone",
        "the agent went away",
        why=str(error) if error else "it ended the connection before the work was done",
        hint="what runs goes on; ask again: proa status. Its log: proa logs --source agent",
    )


def ensure_agent(places: Places) -> AgentClient:
    """A client of a running agent of this version; it is started, or replaced, where need be.

    Raises ProaError `agent-did-not-start` with the last line of its log.
    """
    unwritable = None
    try:
        places.make()
    except ProaError as error:
        if error.code not in ("folder-not-writable", "disk-full"):
            raise
        unwritable = error  # an agent that is there can be asked all the same
    client = AgentClient(places)
    try:
        info: AgentInfo | None = client.info()
    except ProaError as error:
        if error.code not in ("agent-gone", "agent-unclear"):
            raise
        info = None
    if info is not None and (info.version, info.api) == (__version__, API_VERSION):
        return client
    if unwritable is not None:
        raise unwritable
    # Imported only now: with the agent there, which is nearly always, a command starts faster without.
    from proa.agent import spawn

    if info is not None:
        spawn.replace(places)
    spawn.spawn(client, places)
    return client
