"""A registry that wants a login, in front of one that does not."""

from __future__ import annotations

import base64
import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.registry import GATEWAY, Registry

USER, PASSWORD = "robin", "c4nary-secret"


class _Server(ThreadingHTTPServer):
    def __init__(self, registry: Registry) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.registry = registry


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != wanted:
            self._answer(401, b"{}", {"WWW-Authenticate": 'Basic realm="private"'})
            return
        assert isinstance(self.server, _Server)
        behind = http.client.HTTPConnection("127.0.0.1", self.server.registry.port, timeout=60)
        try:
            behind.putrequest(self.command, self.path)
            for key, value in self.headers.items():  # some of them several times
                if key.lower() in ("accept", "range"):
                    behind.putheader(key, value)
            behind.endheaders()
            answer = behind.getresponse()
            shown = ("content-type", "docker-content-digest", "docker-distribution-api-version")
            headers = {key: value for key, value in answer.getheaders() if key.lower() in shown}
            length = answer.getheader("Content-Length", "0")
            self._answer(answer.status, answer.read(), headers, length)
        finally:
            behind.close()

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, headers: dict[str, str], length: str = "") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@contextmanager
def serve_private(registry: Registry) -> Iterator[str]:
    """Its address, as image names in the guest carry it."""
    server = _Server(registry)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield f"{GATEWAY}:{server.server_address[1]}"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
