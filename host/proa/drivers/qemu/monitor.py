"""QEMU's monitor (QMP) through qemu.qmp: typed, bounded in time, with our errors."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from qemu.qmp import EventListener, ExecuteError, QMPClient, QMPError

from proa.drivers.base import ExitReason
from proa.model.errors import ProaError

TIMEOUT = 10.0
# A row of `info usernet` (libslirp: slirp_connection_info): the forward that waits for connections.
_FORWARD = re.compile(r"^\s*TCP\[HOST_FORWARD\]\s+\d+\s+(\S+)\s+(\d+)\s+(\S+)\s+(\d+)\s", re.MULTILINE)
_REASONS = {
    "guest-shutdown": ExitReason.POWER_OFF,
    "guest-reset": ExitReason.RESET,
    "guest-panic": ExitReason.RESET,
    "host-qmp-quit": ExitReason.QUIT,
}


def forwarded_port(told: str, address: str, port: int) -> int | None:
    """The loopback port that QEMU chose for the forward to `address`:`port` in the guest."""
    for host, host_port, guest, guest_port in _FORWARD.findall(told):
        if (host, guest, int(guest_port)) == ("127.0.0.1", address, port) and 0 < int(host_port) < 65536:
            return int(host_port)
    return None


class Monitor:
    """One connection to a QEMU."""

    def __init__(self, name: str) -> None:
        self._client = QMPClient(name)
        self._ends = EventListener("SHUTDOWN")  # at most one or two in a QEMU's life

    async def connect(self, socket: Path, timeout: float = TIMEOUT) -> None:
        """Raises ProaError `hypervisor-silent`."""
        self._client.register_listener(self._ends)
        try:
            async with asyncio.timeout(timeout):
                await self._client.connect(str(socket))
        except (QMPError, OSError, TimeoutError) as error:
            raise _silent(str(error) or "no answer in time") from error

    @property
    def reason(self) -> ExitReason | None:
        """What QEMU last said of its end; None while it has said nothing."""
        for event in reversed(self._ends.history):
            data = event.get("data")
            told = data.get("reason") if isinstance(data, dict) else None
            return _REASONS.get(str(told), ExitReason.DIED)
        return None

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Raises ProaError `hypervisor-silent`, `hypervisor-refused`."""
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._client.execute(command, arguments)
        except ExecuteError as error:
            raise ProaError(
                "hypervisor-refused", f"QEMU refused {command}", why=str(error), layer="hypervisor"
            ) from error
        except (QMPError, OSError, TimeoutError) as error:
            raise _silent(str(error) or f"no answer to {command} within {TIMEOUT:.0f} s") from error

    async def hand_over(self, name: str, fd: int) -> None:
        """Give QEMU a descriptor under a name, for `fd:NAME`. Raises ProaError as `execute` does."""
        self._send(fd)
        await self.execute("getfd", {"fdname": name})

    async def lend(self, fd: int) -> int:
        """Give QEMU a descriptor in a set of its own, for `/dev/fdset/N`; N. Raises ProaError."""
        self._send(fd)
        told = await self.execute("add-fd")
        number = told.get("fdset-id") if isinstance(told, dict) else None
        if not isinstance(number, int):
            raise _silent("it does not say where it put a descriptor")
        return number

    async def take_back(self, fdset: int) -> None:
        """Let QEMU close what was lent. Raises ProaError."""
        await self.execute("remove-fd", {"fdset-id": fdset})

    def _send(self, fd: int) -> None:
        try:
            self._client.send_fd_scm(fd)
        except (QMPError, OSError, AssertionError) as error:
            raise _silent(str(error)) from error

    async def close(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._client.disconnect()
        except (QMPError, OSError, EOFError, TimeoutError):
            return  # it is gone, which is what was wanted


def _silent(why: str) -> ProaError:
    return ProaError("hypervisor-silent", "QEMU does not answer", why=why, layer="hypervisor")
