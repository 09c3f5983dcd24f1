"""The real Docker CLI against one machine: through `proa docker`, and straight on the engine's socket."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.support.commands import Process, Result, run, start
from tests.support.homes import PROA, Home

USUAL = 60.0  # seconds: `docker run` takes 2 to 4 under emulation, on a quiet machine
PLUGINS = ("docker-buildx", "docker-compose")
# For Node.js in a container with the engine's socket: starts another one, and prints its id.
MAKES_ANOTHER = """
const ask = (path, body) => new Promise(done => {
  const call = require('http').request({socketPath: '/var/run/docker.sock', path, method: 'POST',
    headers: {'Content-Type': 'application/json'}}, answer => {
    let text = ''; answer.on('data', data => text += data); answer.on('end', () => done(text)); });
  call.end(JSON.stringify(body)); });
(async () => {
  const {Id} = JSON.parse(await ask('/containers/create', {Image: 'busybox', Cmd: ['sleep', '300']}));
  await ask(`/containers/${Id}/start`, {});
  console.log(Id);
})();
"""


class Docker:
    """`docker(*args)` is what a user types after `proa docker`."""

    def __init__(self, home: Home, machine: str = "default", **environ: str) -> None:
        self.home = home
        self.machine = machine
        self.socket = home.folder / "run" / machine / "docker.sock"
        plain, plugged = home.docker_config, home.folder / "docker-config-plugins"
        for folder in (plain, plugged):
            folder.mkdir(exist_ok=True)
        # No plugins here, so that `proa docker build` and `compose` have to bring the image's own.
        self._environ = {**home.environ, "DOCKER_CONFIG": str(plain), **environ}
        self._straight = {
            **home.environ,
            "DOCKER_CONFIG": str(_with_plugins(home, plugged)),
            "DOCKER_HOST": f"unix://{self.socket}",
        }

    def __call__(
        self,
        *args: str,
        input: bytes | str | IO[bytes] | None = None,
        timeout: float = USUAL,
        status: int | None = 0,
        cwd: Path | None = None,
        **environ: str,
    ) -> Result:
        """Run `proa docker ARGS`; it must end with `status` unless that is None."""
        done = run(self.argv(*args), env={**self._environ, **environ}, input=input, timeout=timeout, cwd=cwd)
        return done if status is None else done.check(status)

    def straight(
        self,
        *args: str,
        input: bytes | str | IO[bytes] | None = None,
        timeout: float = USUAL,
        status: int | None = 0,
        cwd: Path | None = None,
        **environ: str,
    ) -> Result:
        """The same without Proa's CLI: DOCKER_HOST and the docker program."""
        argv = (str(_docker_program(self.home)), *args)
        done = run(argv, env={**self._straight, **environ}, input=input, timeout=timeout, cwd=cwd)
        return done if status is None else done.check(status)

    @contextmanager
    def streaming(self, *args: str, stdin: int | IO[bytes] = subprocess.DEVNULL) -> Iterator[Process]:
        """`proa docker ARGS` while it runs, ended with the block."""
        with start(self.argv(*args), env=self._environ, stdin=stdin) as process:
            yield process

    def argv(self, *args: str) -> tuple[str, ...]:
        named = () if self.machine == "default" else ("--machine", self.machine)
        return (PROA, "docker", *named, *args)

    @property
    def environ(self) -> dict[str, str]:
        return dict(self._environ)

    def lines(self, *args: str) -> tuple[str, ...]:
        return tuple(self(*args).out.split())

    def sweep(self) -> None:
        """Remove all containers, volumes and networks that tests left; images stay."""
        if containers := self.lines("ps", "-aq"):
            self("rm", "-f", "-v", *containers, timeout=120)
        if volumes := self.lines("volume", "ls", "-q"):
            self("volume", "rm", "-f", *volumes)
        if networks := self.lines("network", "ls", "-q", "--filter", "type=custom"):
            self("network", "rm", *networks)


def _docker_program(home: Home) -> Path:
    """The host's docker, or the one that came with the guest image."""
    if found := shutil.which("docker", path=os.environ.get("PATH")):
        return Path(found)
    return next(home.folder.glob("images/*/cli/docker"))


def _with_plugins(home: Home, folder: Path) -> Path:
    plugins = folder / "cli-plugins"
    plugins.mkdir(exist_ok=True)
    for name in PLUGINS:
        link = plugins / name
        if not link.is_symlink():
            link.symlink_to(next(home.folder.glob(f"images/*/cli/cli-plugins/{name}")))
    return folder
