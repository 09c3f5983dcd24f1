"""What the agent's checks ask of a guest: a short command, a connection, the engine's own description."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from proa.agent.doctor.judge import Target
from proa.link.output import Open, command_output
from proa.model.errors import ProaError
from proa.ports.engine_api import EngineApi

ASK_TIMEOUT = 8.0  # seconds; an emulated guest under load needs two for a process
LOOK_UP = "5"  # seconds that the guest's resolver may take


async def clock(open_stream: Open) -> tuple[float, float, float]:
    """The host's time before, the guest's, the host's after; the process's start lies between them."""
    before = time.time()
    out = await command_output(open_stream, ["date", "+%s.%N"], ASK_TIMEOUT)
    try:
        return before, float(out.decode("ascii", "replace")), time.time()
    except ValueError as error:
        raise ProaError("guest-unclear", "the guest does not say what time it is") from error


async def look_up(open_stream: Open, host: str) -> str:
    """Why the guest's resolver does not find `host`, empty where it does."""
    # The name stands behind `--`: an engine's config may name anything.
    argv = ["sh", "-c", 'timeout "$2" getent ahosts -- "$1" >/dev/null; echo $?', "sh", host, LOOK_UP]
    status = (await command_output(open_stream, argv, ASK_TIMEOUT)).strip()
    # getent(1): 2 is "not found"; timeout(1): 124 is "too late".
    return {b"0": "", b"2": "no such name", b"124": f"no answer within {LOOK_UP} s"}.get(
        status, "its resolver failed"
    )


async def ask_share(open_stream: Open, folder: str) -> float | None:
    """Seconds until the guest has looked at a shared folder, with its process's start; None: it has not."""
    argv = ["sh", "-c", 'timeout "$2" stat -c %i -- "$1" >/dev/null; echo $?', "sh", folder, LOOK_UP]
    before = time.monotonic()
    status = (await command_output(open_stream, argv, ASK_TIMEOUT)).strip()
    return time.monotonic() - before if status == b"0" else None


async def reach(open_stream: Open, target: Target) -> str:
    """Why a TCP connection from the guest does not come about; it is closed at once, nothing is sent."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    try:
        async with asyncio.timeout(ASK_TIMEOUT):
            stream = await open_stream(f"tcp:{host}:{target.port}")
    except TimeoutError:
        return f"no answer within {ASK_TIMEOUT:.0f} s"
    except ProaError as error:
        return (error.why or error.message).removeprefix(f"tcp:{host}:{target.port}: ")
    stream.abort()
    return ""


async def engine_info(open_stream: Open) -> dict[str, Any]:
    """The engine's `/info`. Raises ProaError where it does not answer."""
    told = await EngineApi(lambda: open_stream("engine")).get_json("/info", timeout=ASK_TIMEOUT)
    return told if isinstance(told, dict) else {}
