"""The guest's logs lie in its memory: their ends are kept on the host before a machine ends."""

from __future__ import annotations

import asyncio
import logging
from pathlib import PurePosixPath

from proa.machine.session import Session
from proa.model.errors import ProaError
from proa.system.files import write_atomic
from proa.system.paths import MachinePaths

log = logging.getLogger("proa.machine")

# A log as `proa logs --source` calls it -> its file in the guest.
GUEST_LOGS = {
    "engine": "/var/log/proa/dockerd.log",
    "containerd": "/var/log/proa/containerd.log",
    "guest": "/var/log/proa/agent.log",
}
KEPT = 10_000  # lines of each that are kept, as far as they fit into the guest's answer
TIMEOUT = 5.0  # seconds; an end is not to wait for a guest that does not answer


async def keep(session: Session, paths: MachinePaths) -> None:
    """Keep the end of every log in the guest, as far as it answers in time. Never raises ProaError."""
    await asyncio.gather(*(_keep(session, paths, source) for source in GUEST_LOGS))


async def _keep(session: Session, paths: MachinePaths, source: str) -> None:
    name = PurePosixPath(GUEST_LOGS[source]).stem
    try:
        async with asyncio.timeout(TIMEOUT):
            lines = await session.control.log(name, KEPT)
        if lines:
            text = "\n".join(lines) + "\n"
            await asyncio.to_thread(write_atomic, paths.kept_log(source), text.encode())
    except (ProaError, TimeoutError) as error:
        log.info("%s: its %s log is not kept: %s", paths.name, source, error or "no answer in time")


def forget(paths: MachinePaths) -> None:
    """A new run begins: what was kept of the last one is not to be taken for its log."""
    for source in GUEST_LOGS:
        paths.kept_log(source).unlink(missing_ok=True)
