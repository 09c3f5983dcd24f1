"""`proa docker ARG…`: hand over to the real Docker CLI, with the machine's engine as its host.

This has 25 ms on top of the Docker CLI's own time, so it imports neither click nor msgspec nor pathlib.
"""

# ruff: noqa: PTH111, PTH112, PTH113, PTH117, PTH118, PTH208  (pathlib is what this module avoids)

from __future__ import annotations

import os
import sys

from proa.model.errors import ProaError
from proa.model.names import DEFAULT_MACHINE, check_name
from proa.system.roots import engine_socket, home_folder, run_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_PLUGIN_FOLDERS = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)
# The plugin that serves a command, and the words it wants when it is run by itself.
_PLUGINS = {
    "compose": ("docker-compose", []),
    "buildx": ("docker-buildx", []),
    "build": ("docker-buildx", ["build"]),
}


def split(argv: list[str], environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """The machine and Docker's own arguments: ours is only `--machine`, before the first word."""
    name = environ.get("PROA_MACHINE") or DEFAULT_MACHINE
    while argv:
        if argv[0] == "--machine" and len(argv) > 1:
            name, argv = argv[1], argv[2:]
        elif argv[0].startswith("--machine="):
            name, argv = argv[0].partition("=")[2], argv[1:]
        else:
            break
    return check_name(name), argv


def hand_over(argv: list[str]) -> int:
    """Become the Docker CLI: its exit status and signals are then its own. Raises ProaError.

    Returns only where this host can run none: the exit status of the guest's.
    """
    name, argv = split(argv, os.environ)
    chosen = choose(argv, os.environ)
    if chosen is None:
        from proa.cli.guest_docker import run_docker

        return run_docker(name, argv)
    run = run_folder(os.environ)
    socket = engine_socket(run, name)
    if not _answers(socket):
        _wake_agent(name, socket)
    program, words = chosen
    environ = {key: value for key, value in os.environ.items() if key != "DOCKER_CONTEXT"}
    environ["DOCKER_HOST"] = f"unix://{socket}"
    os.execve(program, [program, *words], environ)


def _answers(socket: str) -> bool:
    """True if the agent listens there, and the socket is ours."""
    if sys.platform == "win32":
        return False  # the named pipe is a later issue
    import _socket

    try:
        if os.stat(os.path.dirname(socket)).st_uid != os.geteuid():  # noqa: PTH116, PTH120
            raise ProaError(
                "socket-not-ours",
                f"{socket} cannot be used",
                why="its folder belongs to another user",
                hint="set PROA_HOME to a folder of your own",
            )
        probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            probe.connect(socket)
        finally:
            probe.close()
    except OSError:
        return False
    return True


def _wake_agent(name: str, socket: str) -> None:
    """No agent: start it. It answers for every machine there is, also for one that is stopped."""
    from proa.agent.client import ensure_agent
    from proa.system.paths import Places

    with ensure_agent(Places.current()) as client:
        if _answers(socket):
            return
        client.known(name)


def choose(argv: list[str], environ: Mapping[str, str]) -> tuple[str, list[str]] | None:
    """The program to become and its arguments: the host's Docker CLI, or what came with the guest image.

    None where it is the guest's that has to run, in the guest.
    """
    if environ.get("PROA_DOCKER_CLI") == "guest":
        return None
    docker = find_program("docker", environ.get("PATH", os.defpath))
    plugin = _PLUGINS.get(argv[0]) if argv else None
    if docker is not None and (plugin is None or not plugin_missing(argv[0], plugin[0], environ)):
        return docker, argv
    ours = image_cli(environ)
    if ours is None or not runs_here(os.path.join(ours, "docker")):
        return None
    if plugin is not None:
        name, words = plugin
        standalone = os.path.join(ours, "cli-plugins", name)
        if os.access(standalone, os.X_OK):
            return standalone, [*words, *argv[1:]]
    return docker or os.path.join(ours, "docker"), argv


def runs_here(program: str) -> bool:
    """False for a program of another system or processor, by its header (elf(5), `e_machine`)."""
    if sys.platform != "linux" or not os.access(program, os.X_OK):
        return False
    with open(program, "rb") as file:  # noqa: PTH123
        head = file.read(20)
    wanted = {"x86_64": 62, "aarch64": 183}.get(os.uname().machine)
    return head[:4] != b"\x7fELF" or int.from_bytes(head[18:20], "little") == wanted


def find_program(name: str, path: str) -> str | None:
    """The first program of that name in an absolute entry: never one of the current folder."""
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder, name)
        if os.path.isabs(folder) and os.access(candidate, os.X_OK) and os.path.isfile(candidate):
            return candidate
    return None


def plugin_missing(word: str, name: str, environ: Mapping[str, str]) -> bool:
    """True where the host's Docker CLI would not find that plugin."""
    if word == "build" and environ.get("DOCKER_BUILDKIT") == "0":
        return False
    config = environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    folders = (os.path.join(config, "cli-plugins"), *_PLUGIN_FOLDERS)
    return not any(os.access(os.path.join(folder, name), os.X_OK) for folder in folders)


def image_cli(environ: Mapping[str, str]) -> str | None:
    """The folder `cli` of the newest guest image."""
    home = home_folder(environ)
    if home:
        images = os.path.join(home, "images")
    else:
        import platformdirs

        images = os.path.join(platformdirs.user_data_dir("proa", appauthor=False), "images")
    try:
        found = [os.path.join(images, name, "cli") for name in os.listdir(images) if not name.startswith(".")]
    except OSError:
        return None
    found = [folder for folder in found if os.path.isdir(folder)]
    return max(found, key=os.path.getmtime, default=None)


def usage() -> str:
    """What `proa docker --help` says."""
    return """\
Usage: proa docker [--machine NAME] ARG...

  Run the Docker CLI against a machine's engine. All that follows is Docker's own.

  The first `docker` on the PATH is used; where there is none, or where it lacks
  compose or buildx, those that came with the guest image are used, and where this
  computer cannot run them, the machine does: in the current folder, with your files
  where they are here, and your logins asked for when they are needed. That can be
  asked for with PROA_DOCKER_CLI=guest. Exit status and signals are Docker's own. The
  machine is `default`, or what PROA_MACHINE names.

Options:
  --machine NAME  another machine; before the first word, as -m is Docker's

Example:
  proa docker run -d -p 8080:80 proa/welcome
"""
