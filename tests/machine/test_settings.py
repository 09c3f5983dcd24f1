"""Settings of the shared machine while it runs, and of one that is started for it."""

from __future__ import annotations

import fcntl
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import IO

import pytest

from tests.support.certificates import make_authority
from tests.support.clients import Docker
from tests.support.debian_images import BuiltImage
from tests.support.homes import Home, wait_until
from tests.support.registry import GATEWAY, Registry, serve

pytestmark = [pytest.mark.machine, pytest.mark.timeout(900)]


def _info(docker: Docker, what: str) -> object:
    return json.loads(docker("info", "--format", "{{json " + what + "}}").out)


def test_a_mirror_is_taken_over_and_taken_away_without_a_restart(docker: Docker, home: Home) -> None:
    before = home.ok("config", "get", "registry.mirrors").strip()
    pid = home.status()["pid"]
    try:
        said = home.ok("config", "set", "registry.mirrors", "https://mirror.invalid")
        assert "taken it over" in said
        assert _info(docker, ".RegistryConfig.Mirrors") == ["https://mirror.invalid/"]
        assert "taken it over" in home.ok("config", "unset", "registry.mirrors")
        assert not _info(docker, ".RegistryConfig.Mirrors")
    finally:
        home.ok("config", "set", "registry.mirrors", before)
    assert home.status()["pid"] == pid
    assert _info(docker, ".RegistryConfig.Mirrors") == [f"{before}/"]
    docker("rmi", "-f", "busybox", status=None)
    docker("pull", "busybox", timeout=120)


@pytest.mark.parametrize(("key", "value"), [("daemon.no-such-key", "1"), ("daemon.debug", '"perhaps"')])
def test_what_the_engine_refuses_is_not_kept(docker: Docker, home: Home, key: str, value: str) -> None:
    file = home.folder / "machines/default/machine.toml"
    before = file.read_bytes()
    result = home.proa("config", "set", key, value)
    assert result.status == 2 and "daemon-config-refused" in result.err
    assert key.removeprefix("daemon.") in result.err, "the engine's own words"
    assert file.read_bytes() == before
    docker("ps")


class _Proxy(ThreadingTCPServer):
    """CONNECT and nothing else; every address asked for is led to one registry."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connect)
        self.target = port
        self.asked: list[str] = []


class _Connect(StreamRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, _Proxy)
        server.asked.append(self.rfile.readline().decode())
        while self.rfile.readline().strip():
            continue
        with socket.create_connection(("127.0.0.1", server.target)) as far:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=_copy, args=(far, self.connection), daemon=True)
            back.start()
            _copy(self.connection, far)
            back.join(10)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(64 << 10):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def _proxy(port: int) -> Iterator[_Proxy]:
    with _Proxy(port) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()


@pytest.mark.long
def test_authority_proxy_locks_and_a_larger_disk_with_one_restart(
    docker: Docker, home: Home, tmp_path: Path, test_images: tuple[BuiltImage, ...]
) -> None:
    """A registry by TLS with an authority of its own, reached through a proxy on the host."""
    image = next(image for image in test_images if image.repository.endswith("busybox"))
    authority, certificate, key = make_authority(tmp_path, GATEWAY)
    with (
        serve(tmp_path / "registry", [image], tls=(certificate, key)) as registry,
        _proxy(registry.port) as proxy,
    ):
        name = f"{registry.address}/{image.repository}"
        refused = docker("pull", name, status=1, timeout=120)
        assert "certificate" in refused.err
        shrunk = home.proa("config", "set", "disk", "10GiB")
        assert shrunk.status == 2 and "disk-cannot-shrink" in shrunk.err
        size = _disk_size(home)
        try:
            for words in (
                ("certificates", str(authority)),
                ("proxy.https", f"http://me:canary@localhost:{proxy.server_address[1]}"),
                ("disk", "24GiB"),
                ("shares.locks", "host"),
            ):
                assert "proa restart" in home.ok("config", "set", *words)
            home.ok("restart")
            docker("pull", name, timeout=180)
            assert any(line.startswith(f"CONNECT {registry.address} ") for line in proxy.asked)
            assert _disk_size(home) - size > 3 << 30
            logs = home.last_words(10_000) + home.ok("logs", "--source", "engine", "-n", "2000")
            assert "canary" not in logs
            _locks_count_on_both_sides(docker, home, tmp_path)
        finally:
            home.ok("config", "unset", "shares.locks")
            home.ok("config", "unset", "proxy.https")
            home.ok("config", "unset", "certificates")
            home.ok("restart")


def _locks_count_on_both_sides(docker: Docker, home: Home, folder: Path) -> None:
    """Also while the machine sleeps, and who waits in a container gets what the host gives up."""
    (folder / "file").write_text("x")
    mount = ("-v", f"{folder}:/app", "inotify", "flock", "/app/file")
    with (folder / "file").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        docker("run", "-d", "--name", "locker", *mount, "sleep", "100000")
        docker("exec", "locker", "flock", "-n", "/app/file", "true", status=1)
        fcntl.flock(file, fcntl.LOCK_UN)
        wait_until(lambda: not _is_free(file), 60, "the container has it now")
        home.ok("suspend")
        assert not _is_free(file)
        docker("rm", "-f", "locker", timeout=120)
        wait_until(lambda: _is_free(file), 60, "it is free again")


def _is_free(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True


def _disk_size(home: Home) -> int:
    return int(home.ok("shell", "--", "stat", "-f", "-c", "%b", "/var/lib/docker")) * 4096


@pytest.mark.long
def test_a_start_with_a_daemon_key_that_the_engine_refuses_says_so(home: Home, registry: Registry) -> None:
    home.ok("create", "refused", "--memory", "1GiB")
    try:
        home.ok("config", "set", "daemon.no-such-key", "1", "--machine", "refused")
        result = home.proa("start", "refused", timeout=600)
        assert result.status == 1
        assert "daemon-config-refused" in result.err and "no-such-key" in result.err
    finally:
        home.ok("delete", "refused", "--yes")
