"""A command in the guest whose output is wanted, not shown."""

from __future__ import annotations

import contextlib
import time

from proa.agent.client import AgentClient
from proa.model.api import ExecRequest
from proa.model.errors import ProaError
from proa_guest import wire


def output_of(client: AgentClient, name: str, argv: tuple[str, ...], *, timeout: float, most: int) -> bytes:
    """The last `most` bytes of what `argv` writes. Raises ProaError, `guest-silent` after `timeout` s."""
    out = bytearray()
    frames = wire.Frames()
    deadline = time.monotonic() + timeout
    with contextlib.closing(client.execute(name, ExecRequest(argv=argv), timeout)) as connection:
        try:
            while True:
                connection.settimeout(max(deadline - time.monotonic(), 0.01))
                data = connection.recv(64 << 10)
                for kind, payload in frames.feed(data):
                    if kind == wire.STDOUT:
                        out += payload
                        del out[:-most]
                    elif kind == wire.EXIT:
                        return bytes(out)
                if not data:
                    raise _silent(argv[0], "the guest ended the connection")
        except (TimeoutError, OSError, wire.WireError) as error:
            raise _silent(argv[0], str(error) or f"no end within {timeout:.0f} s") from error


def _silent(program: str, why: str) -> ProaError:
    return ProaError("guest-silent", f"{program} in the guest did not answer", why=why, layer="guest-agent")
