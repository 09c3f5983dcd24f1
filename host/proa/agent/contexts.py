"""Docker contexts come and go with machines, by what the shell that asked has chosen."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import web

from proa.agent.answers import Say
from proa.engine.context import DockerConfig, context_name
from proa.model.api import DOCKER_HEADER, DockerChoice
from proa.model.errors import ProaError

log = logging.getLogger("proa.agent")


def choice_of(request: web.Request) -> DockerChoice | None:
    """What the client's shell has chosen; None where it does not say. Raises msgspec.DecodeError."""
    told = request.headers.get(DOCKER_HEADER)
    return msgspec.json.decode(unquote_to_bytes(told), type=DockerChoice) if told else None


async def publish(choice: DockerChoice | None, machine: str, socket: Path, say: Say) -> None:
    """Make the machine's context. What hinders that is said, and hinders nothing else."""
    if choice is None:
        return
    config = DockerConfig(Path(choice.config))
    try:
        current = await asyncio.to_thread(
            config.publish, machine, socket, may_be_current=choice.may_be_current
        )
    except ProaError as error:
        _complain(error, say)
        return
    if current:
        say("context", f"docker uses this machine now (context {context_name(machine)})", None)


async def withdraw(choice: DockerChoice | None, machine: str, socket: Path, say: Say) -> None:
    """Remove the context of a machine that is gone."""
    if choice is None:
        return
    try:
        await asyncio.to_thread(DockerConfig(Path(choice.config)).withdraw, machine, socket)
    except ProaError as error:
        _complain(error, say)


def _complain(error: ProaError, say: Say) -> None:
    log.warning("docker context: %s", error)
    say("context", ": ".join(part for part in (error.message, error.why) if part), None)
