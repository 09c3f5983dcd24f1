"""Volumes, and host folders that are not shared: refused in every form, never silently empty."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path

import pytest

from tests.support.clients import Docker

pytestmark = [pytest.mark.machine, pytest.mark.timeout(180)]

HOST_BINDS = (
    ("run", "--rm", "-v", "/etc:/x", "busybox", "ls", "/x"),
    ("run", "--rm", "-v", "/etc:/x:ro", "busybox", "ls", "/x"),
    ("run", "--rm", "--mount", "type=bind,source=/etc,target=/x", "busybox", "ls", "/x"),
    ("volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", "device=/etc", "named"),
    (
        "run", "--rm", "--mount",
        'type=volume,source=inline,target=/x,"volume-opt=type=none","volume-opt=o=bind","volume-opt=device=/etc"',
        "busybox", "ls", "/x",
    ),
)  # fmt: skip


@pytest.mark.parametrize("words", HOST_BINDS, ids=("v", "v-ro", "mount", "volume-create", "volume-opt"))
def test_a_host_folder_is_refused(docker: Docker, words: tuple[str, ...]) -> None:
    for client in (docker, docker.straight):
        refused = client(*words, status=None)
        assert refused.status != 0, refused.report("it was not refused")
        assert "/etc" in refused.err, "the error names the path"
        assert "proa share add /etc" in refused.err, "and the way out"
        assert refused.out == ""
    assert docker("ps", "-aq").out == ""
    assert docker("volume", "ls", "-q").out == ""


def test_compose_says_it_too(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(
        "services:\n  one:\n    image: busybox\n    volumes: ['/opt/here:/x']\n    command: ls /x\n"
    )
    refused = docker("compose", "-p", "bound", "up", status=None, cwd=tmp_path, timeout=90)
    assert refused.status != 0
    assert "/opt/here" in refused.err + refused.out
    docker("compose", "-p", "bound", "down", cwd=tmp_path, timeout=90)


@pytest.mark.parametrize(
    "body",
    (
        b'{"Image":"busybox","hostconfig":{"BINDS":["/etc:/x"]}}',
        b'{"Image":"busybox","HostConfig":{"Binds":[]},"HostConfig":{"Binds":["/etc:/x"]}}',
        b'{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bind","Source":"/proc/../etc","Target":"/x"}]}}',
        b'{"Image":"busybox","HostConfig":{"Binds":["/etc:/x"]}} {}',
    ),
    ids=("any-case", "twice", "normalised", "trailing"),
)
def test_no_spelling_gets_past(docker: Docker, body: bytes) -> None:
    """As the engine's own JSON decoder would accept them."""
    for path in ("/containers/create", "/v1.41/containers//create", "/v1.41/%63ontainers/create"):
        for chunked in (False, True):
            status, answer = _post(docker.socket, path, body, chunked)
            assert status >= 400, f"{path}: {status} {answer!r}"
    assert docker("ps", "-aq").out == ""


def test_the_guests_own_paths_are_allowed(docker: Docker) -> None:
    """The engine's socket is the guest's: what manages containers from inside one must work."""
    seen = docker(
        "run", "--rm", "-v", "/var/run/docker.sock:/var/run/docker.sock", "-v", "/lib/modules:/m:ro",
        "busybox", "sh", "-c", "ls -l /var/run/docker.sock; ls /m",
    )  # fmt: skip
    assert seen.out.startswith("s"), "it is a socket"


def test_a_named_volume_outlives_its_container(docker: Docker) -> None:
    docker("run", "--rm", "-v", "kept:/data", "busybox", "sh", "-c", "echo kept > /data/file")
    assert docker("run", "--rm", "-v", "kept:/data", "busybox", "cat", "/data/file").out == "kept"
    assert docker("volume", "ls", "-q").out == "kept"
    docker("volume", "rm", "kept")


def test_tmpfs_and_anonymous_volumes(docker: Docker) -> None:
    mounts = docker("run", "--rm", "--tmpfs", "/t", "-v", "/anonymous", "busybox", "mount").out
    assert "tmpfs on /t " in mounts
    assert " on /anonymous " in mounts


def _post(path_of_socket: Path, path: str, body: bytes, chunked: bool) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("localhost", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(30)
    connection.sock.connect(str(path_of_socket))
    try:
        content = iter([body[:7], body[7:]]) if chunked else body
        headers = {"Content-Type": "application/json"}
        connection.request("POST", path, content, headers, encode_chunked=chunked)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.startswith(b"{") else {"message": text.decode()}
    finally:
        connection.close()
