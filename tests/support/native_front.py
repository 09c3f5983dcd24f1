"""What the host's agent puts in front of an engine, natively: link, engine socket and published ports.

A process of its own, so that its descriptors and memory are its own too:
`python -m tests.support.native_front CONFIG` with `port`, `secret` (the guest agent's) and `socket` as JSON.
A line on its standard input asks for its figures; the input's end ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proa.model.events import EventKind
from proa.model.problem import Problem
from tests.support.caches import REPOSITORY
from tests.support.native import NativeAgent

PATHS = os.pathsep.join(str(REPOSITORY / name) for name in ("host", "guest", "."))
SETTLED = 30.0  # seconds for the last connections to leave
STEADY = 20  # looks without a change


@dataclass(frozen=True)
class Figures:
    descriptors: int
    tasks: int
    clients: int
    memory: int  # resident bytes


class NativeFront:
    def __init__(self, process: subprocess.Popen[bytes], socket: Path) -> None:
        self.socket = socket
        self._process = process

    def figures(self) -> Figures:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return Figures(**json.loads(self._process.stdout.readline()))

    def idle(self) -> Figures:
        """Its figures once no client is left, and what their streams leave behind is parked or closed."""
        deadline = time.monotonic() + SETTLED
        figures, steady = self.figures(), 0
        while steady < STEADY:
            assert time.monotonic() < deadline, figures
            time.sleep(0.05)
            before, figures = figures, self.figures()
            same = (figures.descriptors, figures.tasks) == (before.descriptors, before.tasks)
            steady = steady + 1 if same and not figures.clients else 0
        return figures


@contextlib.contextmanager
def native_front(agent: NativeAgent, folder: Path) -> Iterator[NativeFront]:
    """Proa in front of the engine that `agent` speaks for; its socket is in `folder`."""
    path = folder / "front/docker.sock"
    config = {"port": agent.port, "secret": agent.secret.hex(), "socket": str(path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.native_front", json.dumps(config)],
        env={**os.environ, "PYTHONPATH": PATHS},
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / "front.log").open("wb"),
    )
    try:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"ready\n", (folder / "front.log").read_text()
        yield NativeFront(process, path)
        assert process.poll() is None, (folder / "front.log").read_text()
    finally:
        process.kill()
        process.communicate()


def _no_journal(kind: EventKind, message: str, *, done: str = "", problem: Problem | None = None) -> None:
    """Nobody reads this front's events."""


async def _serve(config: dict[str, object]) -> None:
    from proa.engine.mounts import HostMount, Target
    from proa.engine.proxy import EngineProxy
    from proa.link.loopback import Loopback
    from proa.link.pool import LinkPool
    from proa.model.host_path import this_system, to_guest
    from proa.ports.engine_api import EngineApi
    from proa.ports.forwarder import PortForwarder
    from proa.ports.watcher import PortWatcher
    from proa.system.sockets import listen_private
    from proa.system.tasks import Tasks

    tasks = Tasks("front")
    port = config["port"]
    assert isinstance(port, int)
    pool = LinkPool(Loopback("127.0.0.1", port), bytes.fromhex(str(config["secret"])), tasks)
    forwarder = PortForwarder("native", pool.open, _no_journal, lambda key: None)
    watcher = PortWatcher(EngineApi(lambda: pool.open("engine")), forwarder.apply, tasks)
    await watcher.settled()

    async def share(wanted: Sequence[HostMount]) -> Mapping[str, Target]:
        """Everything, where the native engine has it."""
        return {mount.path: Target(to_guest(mount.path, this_system()), writable=True) for mount in wanted}

    proxy = EngineProxy(lambda: pool.open("engine"), settled=watcher.settled, machine="native", share=share)
    await proxy.serve(listen_private(Path(str(config["socket"]))))
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        figures = {
            "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
            "tasks": len(asyncio.all_tasks()),
            "clients": len(proxy.clients),
            "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.argv[1])))
