"""The real guest agent as a process of this host: everything of the link but the virtual machine."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GUEST = Path(__file__).resolve().parents[2] / "guest"
# The guest's Python has os.setns, which this one may lack (it came with 3.12).
_AGENT = """
import ctypes, os
if not hasattr(os, "setns"):
    os.CLONE_NEWNET = 0x40000000
    def setns(handle, kind, libc=ctypes.CDLL(None, use_errno=True)):
        if libc.setns(handle, kind):
            raise OSError(ctypes.get_errno(), "setns")
    os.setns = setns
from proa_guest.agent import main
main()
"""


@dataclass(frozen=True)
class NativeAgent:
    pid: int
    port: int
    secret: bytes
    folder: Path

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208

    def memory(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def engine(self) -> Path:
        return self.folder / "engine.sock"

    def tell(self, **state: object) -> None:
        """What process 1 would write."""
        partial = self.folder / "init.json.new"
        partial.write_text(json.dumps(state))
        partial.rename(self.folder / "init.json")


@contextlib.contextmanager
def native_agent(folder: Path, *, beside: int | None = None) -> Iterator[NativeAgent]:
    """The agent in the network of the process `beside` (an engine's, say); by default in ours."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    secret = os.urandom(32)
    netns = None if beside is None else f"/proc/{os.getpid()}/ns/net"
    enter = [] if beside is None else ["nsenter", "--net", "--target", str(beside)]
    config = {
        "link": {"address": "127.0.0.1", "port": port, "netns": netns, "secret": secret.hex()},
        "engine_socket": str(folder / "engine.sock"),
        "init_state": str(folder / "init.json"),
        "logs": str(folder),
        "beat": str(folder / "beat"),
    }
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "agent.log").open("wb") as log:
        process = subprocess.Popen(
            [*enter, sys.executable, "-c", _AGENT, str(folder / "config.json")],
            env={**os.environ, "PYTHONPATH": str(GUEST)},
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 20
        while b"listening" not in (folder / "agent.log").read_bytes():
            assert process.poll() is None, (folder / "agent.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield NativeAgent(process.pid, port, secret, folder)
        assert process.poll() is None, f"the agent died: {(folder / 'agent.log').read_text()}"
    finally:
        process.kill()
        process.wait()
