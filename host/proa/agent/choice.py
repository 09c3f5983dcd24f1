"""What the agent is told of the shell that asks, which it cannot see: DockerChoice as a header's value.

Apart from the client, and without its imports, for `proa start` asks before it has imported anything else.
"""

from __future__ import annotations

import os

from proa.system.roots import docker_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_ESCAPED = {number: f"\\u{number:04x}" for number in (*range(32), ord('"'), ord("\\"))}


def docker_choice(environ: Mapping[str, str]) -> str:
    """JSON (proa.model.api.DockerChoice), each byte but letters and digits as %XX. Raises OSError."""
    folder = docker_folder(environ)
    if not os.path.isabs(folder):  # noqa: PTH117
        folder = os.path.join(os.getcwd(), folder)  # noqa: PTH109, PTH118
    chosen = any(environ.get(key) for key in ("DOCKER_HOST", "DOCKER_CONTEXT", "PROA_HOME"))
    may_be = "false" if chosen else "true"
    told = f'{{"config":"{folder.translate(_ESCAPED)}","may_be_current":{may_be}}}'.encode("utf-8", "replace")
    return "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"%{byte:02X}" for byte in told)
