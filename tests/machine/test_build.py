"""A Node.js application, from its Dockerfile to an answer in the browser, and a shell inside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import MAKES_ANOTHER, Docker
from tests.support.commands import run
from tests.support.homes import wait_until
from tests.support.terminals import terminal

pytestmark = [pytest.mark.machine, pytest.mark.timeout(900)]

DOCKERFILE = """\
FROM node:18
WORKDIR /app
COPY . .
RUN npm install
CMD ["npm","start"]
"""
# `ms` is a real dependency without any of its own.
PACKAGE = {
    "name": "hello",
    "version": "1.0.0",
    "private": True,
    "scripts": {"start": "node server.js"},
    "dependencies": {"ms": "2.1.3"},
}
SERVER = """\
const http = require('http');
const ms = require('ms');
http.createServer((request, response) => response.end(`a minute is ${ms('1m')} ms\\n`)).listen(3000);
process.on('SIGTERM', () => process.exit(0));
"""
PORT = 3000  # word for word what the tutorials say


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "package.json").write_text(json.dumps(PACKAGE))
    (folder / "server.js").write_text(SERVER)
    return folder


@pytest.fixture(scope="module")
def my_container(docker: Docker, project: Path) -> Iterator[str]:
    """The container of the built image, answering on port 3000."""
    docker("build", "-t", "my-image", ".", cwd=project, timeout=420)
    container = docker("run", "-d", "-p", "3000:3000", "--name", "my-container", "my-image").out
    yield container
    docker("rm", "-f", "my-container")
    docker("rmi", "my-image")


def test_the_app_answers_on_port_3000(docker: Docker, my_container: str) -> None:
    answered = wait_until(lambda: _get(PORT), 120, f"port 3000 answers; {docker('logs', my_container).err}")
    assert answered == "a minute is 60000 ms"
    assert "3000->3000/tcp" in docker("ps").out


def test_it_was_buildkit(docker: Docker, my_container: str) -> None:
    created = docker("history", "--format", "{{.CreatedBy}}", "--no-trunc", "my-image").out
    assert "# buildkit" in created
    assert "npm install" in created


def test_a_container_makes_another_through_the_socket(docker: Docker, my_container: str) -> None:
    """As testcontainers and CI runners do: the engine's socket, mounted, is that of the guest's engine."""
    socket = "/var/run/docker.sock:/var/run/docker.sock"
    docker("pull", "busybox", timeout=120)
    made = docker("run", "--rm", "-v", socket, "my-image", "node", "-e", MAKES_ANOTHER, timeout=120).out
    assert docker("inspect", "-f", "{{.State.Running}} {{.Config.Image}}", made).out == "true busybox"
    docker("rm", "-f", made)


def test_a_shell_under_a_terminal(docker: Docker, my_container: str) -> None:
    """`docker exec -it my-container /bin/sh`: a terminal, its size, its exit status."""
    argv = docker.argv("exec", "-it", "my-container", "/bin/sh")
    with terminal(argv, docker.environ, rows=31, columns=97) as shown:
        shown.expect("[#$] ")
        shown.send("tty; stty size\r")
        shown.expect(r"/dev/pts/\d+\r\n31 97\r\n")
        # The new size travels as a request of its own beside the stream. The client asks once and drops
        # a failure, and listens for the signal only some time after the prompt: so it is told twice.
        shown.resize(42, 119)
        shown.send("sleep 1; echo slept''\r")
        shown.expect("slept\r\n")
        shown.resize(43, 120)
        shown.send("while [ \"$(stty size)\" != '43 120' ]; do sleep 0.1; done; echo resi''zed\r")
        shown.expect("resized\r\n")
        shown.send("cat /nothing; pwd; exit 7\r")
        shown.expect("No such file")
        shown.expect("/app\r\n")
        assert shown.wait() == 7


def test_control_c_reaches_the_container(docker: Docker, my_container: str) -> None:
    with terminal(docker.argv("exec", "-it", "my-container", "/bin/sh"), docker.environ) as shown:
        shown.expect("[#$] ")
        shown.send("sh -c 'echo slee''ping; sleep 300'\r")
        shown.expect("sleeping\r\n")
        shown.send("\x03")
        shown.expect("[#$] ")
        shown.send("echo still here; exit\r")
        shown.expect("still here\r\n")
        shown.wait()


@pytest.mark.long
def test_the_classic_builder(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nARG WORD\nCOPY word /word\nRUN echo $WORD >> /word\nCMD cat /word\n"
    )
    (tmp_path / "word").write_text("copied\n")
    built = docker(
        "build",
        "--build-arg",
        "WORD=run",
        "-t",
        "classic",
        ".",
        cwd=tmp_path,
        timeout=180,
        DOCKER_BUILDKIT="0",
    )  # fmt: skip
    assert "Successfully tagged classic:latest" in built.out
    assert docker("run", "--rm", "classic").out.split() == ["copied", "run"]


@pytest.mark.long
def test_buildkit_straight_on_the_socket(docker: Docker, tmp_path: Path) -> None:
    """Secrets and a second stage travel over BuildKit's session: HTTP/2, upgraded on the socket."""
    (tmp_path / "secret").write_text("not in the image")
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox AS first\n"
        "RUN --mount=type=secret,id=s sha256sum /run/secrets/s > /hash\n"
        "FROM busybox\nCOPY --from=first /hash /hash\nCMD cat /hash\n"
    )
    docker.straight("build", "--secret", "id=s,src=secret", "-t", "staged", ".", cwd=tmp_path, timeout=180)
    hashed = docker.straight("run", "--rm", "staged").out.split()[0]
    assert hashed == run(["sha256sum", str(tmp_path / "secret")], timeout=10).check().out.split()[0]


def test_a_failing_step_fails_the_build(docker: Docker) -> None:
    failed = docker("build", "-", input="FROM busybox\nRUN exit 9\n", status=None, timeout=120)
    assert failed.status == 1
    assert "exit code: 9" in failed.err


def _get(port: int) -> str:
    return run(["curl", "-s", "--max-time", "10", f"http://localhost:{port}/"], timeout=20).out
