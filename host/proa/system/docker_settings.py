"""The user's `config.json` of the Docker CLI: read whole, and written so that nothing of it is lost.

The format is the Docker CLI's (docs.docker.com/reference/cli/docker, "Configuration files"). What cannot be
read is never written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from proa.model.errors import ProaError
from proa.system import roots
from proa.system.files import read_bytes, write_atomic


def docker_folder(environ: Mapping[str, str]) -> Path:
    """proa.system.roots.docker_folder as a path."""
    return Path(roots.docker_folder(environ))


class DockerSettings:
    """`config.json` in the Docker CLI's folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "config.json"

    def read(self) -> dict[str, object]:
        """All keys; none where there is no file. Raises ProaError `docker-config-corrupt`, or the disk's."""
        try:
            content = json.loads(read_bytes(self.path))
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as error:
            raise self._corrupt(str(error)) from error
        if not isinstance(content, dict):
            raise self._corrupt("it is no JSON object")
        return content

    def write(self, settings: dict[str, object]) -> None:
        """Replace all keys. Raises ProaError."""
        path = self.path.resolve()  # people keep it elsewhere and link to it
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        write_atomic(path, (json.dumps(settings, indent="\t", ensure_ascii=False) + "\n").encode(), mode)

    def _corrupt(self, why: str) -> ProaError:
        return ProaError(
            "docker-config-corrupt",
            f"{self.path} was left as it is",
            why=f"it cannot be read: {why}",
            hint="mend it or move it away; until then choose the context yourself: docker --context",
        )
