"""The root folders of an installation and the engine's socket, as plain strings.

Apart from `proa.system.paths`, and without its imports, because `proa docker` has
25 ms for all it does; `paths` builds on it, so that there is one rule.
"""

from __future__ import annotations

import os

from proa.model.errors import ProaError

TYPE_CHECKING = False  # typing itself would be imported for it
if TYPE_CHECKING:
    from collections.abc import Mapping

# sun_path holds 104 bytes with its NUL on macOS and 108 on Linux (unix(7)); the smaller holds everywhere.
MAX_SOCKET_PATH = 103


def home_folder(environ: Mapping[str, str]) -> str:
    """PROA_HOME made absolute, or empty where it is not set. Raises ProaError `bad-home`."""
    chosen = environ.get("PROA_HOME", "")
    if not chosen:
        return ""
    home = os.path.expanduser(chosen)  # noqa: PTH111  (pathlib is what this module avoids)
    if not os.path.isabs(home) or not chosen.isprintable():  # noqa: PTH117
        raise ProaError(
            "bad-home",
            f"PROA_HOME cannot be {chosen!r}",
            why="it must be an absolute path of printable characters",
            hint="for example: export PROA_HOME=$HOME/.proa",
            usage=True,
        )
    return home.rstrip("/") or "/"


def run_folder(environ: Mapping[str, str]) -> str:
    """Where the sockets are: PROA_HOME/run, or the system's runtime folder of the user."""
    home = home_folder(environ)
    if home:
        return os.path.join(home, "run")  # noqa: PTH118
    import warnings

    import platformdirs

    with warnings.catch_warnings():
        # Without XDG_RUNTIME_DIR it takes one below /tmp and warns; `make_private_folder` proves it ours.
        warnings.simplefilter("ignore")
        return platformdirs.user_runtime_dir("proa", appauthor=False)


def docker_folder(environ: Mapping[str, str]) -> str:
    """Where the Docker CLI keeps what is this user's."""
    return environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")  # noqa: PTH111, PTH118


def engine_socket(run: str, machine: str) -> str:
    """The path of a machine's engine socket. Raises ProaError `socket-path-too-long`."""
    return check_socket(os.path.join(run, machine, "docker.sock"))  # noqa: PTH118


def check_socket(path: str) -> str:
    """`path` if a Unix socket can be bound there. Raises ProaError `socket-path-too-long`."""
    length = len(os.fsencode(path))
    if length <= MAX_SOCKET_PATH:
        return path
    raise ProaError(
        "socket-path-too-long",
        f"a socket cannot be made at {path}",
        why=f"its path has {length} bytes, and the system allows {MAX_SOCKET_PATH}",
        hint="choose a shorter machine name, or a shorter PROA_HOME, for example: PROA_HOME=~/.proa",
        usage=True,
    )
