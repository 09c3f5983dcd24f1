"""A real registry (Debian's docker-registry) on a loopback port, and a pusher that speaks its HTTP API v2.

The guest sees the host's loopback as 10.0.2.2, QEMU's user network.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from tests.support.commands import start
from tests.support.debian_images import MANIFEST_TYPE, BuiltImage
from tests.support.homes import wait_until

GATEWAY = "10.0.2.2"
START_TIMEOUT = 20.0


@dataclass(frozen=True)
class Registry:
    """`port` is on the host's 127.0.0.1; with `tls` nobody here checks whose it is."""

    port: int
    tls: bool = False

    @property
    def address(self) -> str:
        """As image names in the guest carry it."""
        return f"{GATEWAY}:{self.port}"

    def push(self, image: BuiltImage) -> None:
        """Blobs first, then the manifest that names them, as the registry demands."""
        with image.layer.open("rb") as layer:
            self._push_blob(image.repository, image.layer_digest, layer, image.layer.stat().st_size)
        self._push_blob(image.repository, image.config_digest, image.config, len(image.config))
        path = f"/v2/{image.repository}/manifests/{image.tag}"
        self._ask("PUT", path, image.manifest, {"Content-Type": MANIFEST_TYPE}, expect=201)

    def tags(self, repository: str) -> tuple[str, ...]:
        """Tags of a repository; empty where there is none."""
        body, _ = self._ask("GET", f"/v2/{repository}/tags/list", expect=(200, 404))
        return tuple(json.loads(body).get("tags") or ())

    def answers(self) -> bool:
        try:
            self._ask("GET", "/v2/", expect=200)
        except OSError:
            return False
        return True

    def _push_blob(self, repository: str, digest: str, content: bytes | IO[bytes], size: int) -> None:
        _, place = self._ask("POST", f"/v2/{repository}/blobs/uploads/", expect=202)
        parts = urlsplit(place)
        path = f"{parts.path}?{parts.query}&digest={digest}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        self._ask("PUT", path, content, headers, expect=201)

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | IO[bytes] | None = None,
        headers: dict[str, str] | None = None,
        *,
        expect: int | tuple[int, ...],
    ) -> tuple[bytes, str]:
        """The body and the Location of the answer."""
        connection = (
            http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=60, context=ssl._create_unverified_context()
            )
            if self.tls
            else http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        )
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        expected = (expect,) if isinstance(expect, int) else expect
        assert answer.status in expected, f"{method} {path}: {answer.status} {content[:500]!r}"
        return content, answer.headers.get("Location", "")


@contextmanager
def serve(
    storage: Path, images: Iterable[BuiltImage], tls: tuple[Path, Path] | None = None
) -> Iterator[Registry]:
    """A registry with `images`, its storage made anew and its process ended with the block.

    `tls` is a certificate and its key.
    """
    program = shutil.which("docker-registry")
    assert program, "docker-registry is missing: apt-get install docker-registry"
    registry = Registry(free_port(), tls=tls is not None)
    storage.mkdir(parents=True)
    config = storage / "config.yml"
    config.write_text(_config(storage / "data", registry.port, tls))
    journal = storage / "registry.log"
    with (
        journal.open("wb") as log,
        start([program, "serve", str(config)], stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        wait_until(
            lambda: registry.answers() or process.poll() is not None, START_TIMEOUT, "registry answers"
        )
        assert process.poll() is None, journal.read_text()[-2000:]
        for image in images:
            registry.push(image)
        yield registry


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _config(data: Path, port: int, tls: tuple[Path, Path] | None) -> str:
    """Docker Registry 2.8's configuration file, which is YAML and so may be JSON."""
    return json.dumps(
        {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(data)}, "delete": {"enabled": True}},
            "http": {"addr": f"127.0.0.1:{port}", "secret": "one process only"}
            | ({"tls": {"certificate": str(tls[0]), "key": str(tls[1])}} if tls else {}),
        }
    )
