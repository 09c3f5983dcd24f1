"""A dev server in a container, on a project of the host's: a page is told of what was saved, and still is
after a sleep."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.support.clients import Docker
from tests.support.homes import Home
from tests.support.npm import VITE, npm
from tests.support.registry import free_port

pytestmark = [pytest.mark.machine, pytest.mark.timeout(600)]

STARTS = 240.0  # seconds that an emulated guest may take to start Vite
TOLD = 30.0


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """As `npm create vite` would make it, with its packages installed on the host."""
    folder = tmp_path / "project"
    (folder / "src").mkdir(parents=True)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "index.html").write_text('<script type="module" src="/src/main.js"></script>')
    (folder / "src/main.js").write_text(
        "import {text} from './text.js';\nimport.meta.hot.accept('./text.js');"
    )
    (folder / "src/text.js").write_text("export const text = 'first';")
    npm(folder, "install", "--silent", VITE)
    return folder


class Page:
    """What an open page of the project's is told, over Vite's own connection."""

    def __init__(self, address: str, session: aiohttp.ClientSession) -> None:
        self._address = address
        self._session = session

    async def text(self, path: str) -> str:
        async with self._session.get(f"http://{self._address}{path}") as answer:
            return await answer.text()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        for path in ("/", "/src/main.js", "/src/text.js"):
            await self.text(path)
        async with self._session.ws_connect(f"ws://{self._address}/", protocols=["vite-hmr"]) as told:
            assert json.loads(await told.receive_str(timeout=TOLD))["type"] == "connected"
            yield told


async def _update(told: aiohttp.ClientWebSocketResponse) -> list[str]:
    """The paths of the next update."""
    while True:
        message = json.loads(await told.receive_str(timeout=TOLD))
        if message["type"] == "update":
            return [update["acceptedPath"] for update in message["updates"]]


@pytest.mark.long
async def test_a_page_is_told_of_what_was_saved(docker: Docker, home: Home, project: Path) -> None:
    port = free_port()
    docker(
        "run", "-d", "--name", "vite", "-p", f"127.0.0.1:{port}:5173", "-v", f"{project}:/app", "-w", "/app",
        "node:18", "node", "node_modules/vite/bin/vite.js", "--host", "0.0.0.0",
        timeout=STARTS,
    )  # fmt: skip
    ready = "until wget -qO /dev/null http://127.0.0.1:5173/; do sleep 0.5; done"
    argv = ("exec", "vite", "timeout", f"{STARTS:.0f}", "sh", "-c", ready)
    serves = docker(*argv, timeout=STARTS + 30, status=None)
    assert serves.status == 0, docker("logs", "vite").raw_err.decode()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session:
        page = Page(f"127.0.0.1:{port}", session)
        async with page.open() as told:
            for number in range(3):
                (project / "src/text.js").write_text(f"export const text = 'edit {number}';")
                assert await _update(told) == ["/src/text.js"]
                assert f"edit {number}" in await page.text("/src/text.js")
            (project / "src/.text.js").write_text("export const text = 'replaced';")
            (project / "src/.text.js").replace(project / "src/text.js")
            assert await _update(told) == ["/src/text.js"]
            assert "replaced" in await page.text("/src/text.js")
        home.ok("suspend")
        (project / "src/text.js").write_text("export const text = 'over lunch';")
        async with page.open() as told:  # this wakes it
            assert "over lunch" in await page.text("/src/text.js")
            (project / "src/text.js").write_text("export const text = 'after lunch';")
            assert await _update(told) == ["/src/text.js"]
            assert "after lunch" in await page.text("/src/text.js")
    docker("rm", "-f", "vite")
