"""Real clients, each against the engine and through Proa: the same words on the wire, the same outcome.

As test_fidelity, with what the clients say themselves. The engine is the guest's release, run natively.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.commands import Result, run, run_until
from tests.support.native_engine import NativeEngine
from tests.support.native_front import NativeFront
from tests.support.npm import DOCKERODE, npm
from tests.support.recorder import recorded, without_chance

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]

COMPOSE = """
name: talk
services:
  web:
    image: busybox
    command: sh -c 'echo up; exec sleep 300'
    stop_signal: SIGKILL
    network_mode: none
    environment: {A: one}
    volumes: ["/etc:/host:ro"]
"""
BUILD = "FROM busybox\nCOPY note /note\nRUN cat /note\nLABEL a=b\n"
DOCKER_PY = """
import docker, io, tarfile
client = docker.from_env()
assert client.ping()
box = client.containers.run("busybox", "sh -c 'echo started; exec sleep 300'", detach=True, name="talk",
    network_mode="none", volumes={"/etc": {"bind": "/x", "mode": "ro"}})
print(box.exec_run("echo inside"))
print(next(iter(box.logs(stream=True, follow=True))))
print(box.attrs["HostConfig"]["Binds"])
out = io.BytesIO()
with tarfile.open(fileobj=out, mode="w") as archive:
    archive.addfile(tarfile.TarInfo("empty"))
print(box.put_archive("/tmp", out.getvalue()))
print(box.exec_run("ls /tmp"))
box.remove(force=True)
"""
TESTCONTAINERS = """
from testcontainers.core.container import DockerContainer
box = DockerContainer("busybox").with_command("sleep 300").with_name("talk").with_env("A", "one")
with box.with_volume_mapping("/etc", "/x").with_kwargs(network_mode="none") as started:
    print(started.exec(["ls", "-d", "/x/passwd"]))
    print(started.get_logs())
"""
NODE = """
const Docker = require('dockerode');
const docker = new Docker({socketPath: process.env.DOCKER_HOST.replace('unix://', '')});
(async () => {
  const box = await docker.createContainer({Image: 'busybox', name: 'talk', Cmd: ['sleep', '300'],
    HostConfig: {NetworkMode: 'none', Binds: ['/etc:/x:ro']}, Labels: {'devcontainer.local_folder': '/x'}});
  await box.start();
  const found = await docker.listContainers({filters: {label: ['devcontainer.local_folder=/x']}});
  console.log(found.length, found[0].Mounts[0].Source);
  const exec = await box.exec({Cmd: ['sh', '-c', 'uname; cat'], AttachStdin: true, AttachStdout: true});
  const stream = await exec.start({hijack: true, stdin: true});
  let said = '';
  stream.on('data', data => { said += data.toString('latin1');
    if (said.endsWith('Linux\\n')) { stream.end('typed'); } });
  await new Promise(done => stream.on('end', done));
  console.log(JSON.stringify(said), (await exec.inspect()).ExitCode);
  await box.remove({force: true});
})();
"""


@dataclass(frozen=True)
class Desk:
    """Where a client runs: a folder of its own, and a socket."""

    engine: NativeEngine
    folder: Path
    socket: Path

    def file(self, name: str, content: str) -> None:
        """Of the same age each time: archives say it."""
        (self.folder / name).write_text(content)
        os.utime(self.folder / name, (1e9, 1e9))

    def __call__(
        self, *argv: str | Path, stdin: bytes = b"", environ: Mapping[str, str] | None = None
    ) -> Result:
        env = {**self.engine.environ(self.socket), **(environ or {})}
        return run(list(map(str, argv)), timeout=120, env=env, cwd=self.folder, input=stdin)

    def run(self, said: bytes, *argv: str, stdin: bytes = b"") -> Result:
        """`docker run -i` of a command that ends with its input, which ends when `said` has come."""
        words = (str(self.engine.docker), "run", "--rm", "-i", "--network", "none", *argv)
        environ = self.engine.environ(self.socket)
        return run_until(words, said, timeout=120, typed=stdin, env=environ, cwd=self.folder)

    def docker(self, *argv: str, stdin: bytes = b"", environ: Mapping[str, str] | None = None) -> Result:
        return self(self.engine.docker, *argv, stdin=stdin, environ=environ)


Client = Callable[[Desk], list[Result]]


def docker_cli(desk: Desk) -> list[Result]:
    docker = desk.docker
    desk.file("note", "to be copied\n")
    mounts = ("-v", "/etc:/x:ro", "--network", "none")
    return [
        desk.run(b"wire", "busybox", "cat", stdin=b"over the wire\n"),
        desk.run(b"why", "busybox", "sh", "-c", "echo why >&2; cat; exit 9"),
        docker("run", "--rm", "--network", "none", "busybox", "true"),
        docker("run", "-d", "--name", "talk", *mounts, "busybox", "sleep", "300"),
        docker("exec", "-i", "talk", "sh", "-c", "cat; ls -d /x/passwd", stdin=b"typed"),
        docker("cp", "note", "talk:/tmp/note"),
        docker("exec", "talk", "cat", "/tmp/note"),
        docker("logs", "talk"),
        docker("inspect", "-f", "{{json .HostConfig.Binds}} {{(index .Mounts 0).Source}}", "talk"),
        docker("ps", "-a", "--format", "{{.Names}} {{.Mounts}}", "--no-trunc"),
        docker("run", "--rm", "-v", "relative/name:/x", "busybox", "true"),
        docker("run", "--rm", "--mount", "type=bind,source=/nowhere,target=/x", "busybox", "true"),
        docker("rm", "-f", "talk"),
        docker("volume", "create", "talk"),
        docker("volume", "rm", "talk"),
        docker("pull", "no.such.host.invalid/x"),
    ]


def compose(desk: Desk) -> list[Result]:
    desk.file("compose.yaml", COMPOSE)
    words = (("up", "-d", "--quiet-pull"), ("exec", "-T", "web", "ls", "-d", "/host/passwd"), ("logs",))
    return [desk.docker("compose", "--progress", "quiet", *line) for line in (*words, ("down", "-v"))]


def classic_build(desk: Desk) -> list[Result]:
    return _build(desk, {"DOCKER_BUILDKIT": "0"})


def buildkit(desk: Desk) -> list[Result]:
    """What it says behind the two upgrades is BuildKit's own; that it works is the build's outcome."""
    environ = {"BUILDKIT_PROGRESS": "quiet", "BUILDX_CONFIG": str(desk.folder / "x")}
    return _build(desk, {"DOCKER_BUILDKIT": "1", **environ})


def _build(desk: Desk, environ: Mapping[str, str]) -> list[Result]:
    desk.file("Dockerfile", BUILD)
    desk.file("note", "in the context\n")
    built = desk.docker("build", "--no-cache", "--network", "none", "-t", "talk", ".", environ=environ)
    ran = desk.run(b"context", "talk", "cat", "/note", "-")
    return [built, ran, desk.docker("rmi", "talk", environ=environ)]


def docker_py(desk: Desk) -> list[Result]:
    return [desk(sys.executable, "-c", DOCKER_PY)]


def containers_for_tests(desk: Desk) -> list[Result]:
    return [desk(sys.executable, "-c", TESTCONTAINERS, environ={"TESTCONTAINERS_RYUK_DISABLED": "true"})]


def dockerode(desk: Desk) -> list[Result]:
    """What Node.js tools use, VS Code's among them."""
    npm(desk.folder, "install", DOCKERODE)
    desk.file("talk.js", NODE)
    return [desk("node", "talk.js")]


@pytest.mark.parametrize(
    "client",
    (docker_cli, compose, classic_build, buildkit, docker_py, containers_for_tests, dockerode),
    ids=lambda client: client.__name__,
)
def test_no_real_client_can_tell(
    engine: NativeEngine, front: NativeFront, client: Client, tmp_path: Path
) -> None:
    told, came = [], []
    for path in (engine.socket, front.socket):
        folder = tmp_path / "desk"  # the same one: clients tell their engine where they are
        folder.mkdir()
        with recorded(engine.folder / "recorded.sock", path) as recorder:
            results = client(Desk(engine, folder, recorder.socket))
            told.append(recorder.exchanges())
        Desk(engine, folder, engine.socket).docker("rm", "-f", "talk")  # of a client that failed
        shutil.rmtree(folder)
        came.append([(result.status, without_chance(result.raw)) for result in results])
    assert came[0][0][0] == 0, came[0]
    assert [status for status, _ in came[1]] == [status for status, _ in came[0]], (came[1], results)
    only = [[words for words in one if words not in other] for one, other in (told, told[::-1])]
    assert only == [[], []], json.dumps(only, default=repr, indent=1)
    assert len(told[0]) > 3
