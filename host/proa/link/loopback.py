"""The transport of a hypervisor that forwards a loopback port of the host to the guest's link port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

P = TypeVar("P", bound=asyncio.Protocol)


class Transport(Protocol):
    """A way to the guest's link port."""

    async def connect(self, factory: Callable[[], P]) -> P:
        """A new connection with a protocol of its own. Raises OSError."""


@dataclass(frozen=True)
class Loopback:
    """TCP to a port of the host's loopback."""

    host: str
    port: int

    async def connect(self, factory: Callable[[], P]) -> P:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(factory, self.host, self.port)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return protocol
