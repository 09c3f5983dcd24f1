"""One published port on the host: a listening socket whose connections are relayed to the guest."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Awaitable, Callable

from proa.link.stream import LinkStream
from proa.model.errors import ProaError
from proa.ports.planner import Binding, Key
from proa.system.port_owner import first_unprivileged, free_port_near, owner_of
from proa.system.tasks import Tasks
from proa_guest.relay import End, reset

log = logging.getLogger("proa.ports")

BACKLOG = 1024
OpenStream = Callable[[str], Awaitable[LinkStream]]


def bind(key: Key) -> socket.socket:
    """A listening socket. Raises ProaError `port-taken`, `port-privileged`, `address-not-here`."""
    family = socket.AF_INET6 if ":" in key.host_ip else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # On POSIX this lets us bind what is in TIME_WAIT, never what somebody listens on.
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((key.host_ip, key.host_port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _explain(key, error) from error
    return listener


def _explain(key: Key, error: OSError) -> ProaError:
    where = f"[{key.host_ip}]:{key.host_port}" if ":" in key.host_ip else f"{key.host_ip}:{key.host_port}"
    if error.errno == errno.EADDRINUSE:
        owner = owner_of(key.host_port)
        free = free_port_near(key.host_port, key.host_ip)
        return ProaError(
            "port-taken",
            f"port {where} is taken",
            why=f"by {owner}" if owner else "by another program, which the system does not name",
            hint=(f"port {free} is free; " if free else "") + "Proa takes the port as soon as it is free",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return ProaError(
            "port-privileged",
            f"port {where} may not be bound",
            why=f"ports below {first_unprivileged()} are for the administrator",
            hint="publish a higher port, or lower the limit: sysctl net.ipv4.ip_unprivileged_port_start",
        )
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return ProaError(
            "address-not-here",
            f"port {where} cannot be bound",
            why=f"this computer has no address {key.host_ip}",
            hint="publish on 127.0.0.1, or on an address that this computer has",
        )
    return ProaError("port-failed", f"port {where} cannot be bound", why=error.strerror or str(error))


class PortListener:
    """Accepts on a bound socket until it is closed; open connections outlive it."""

    def __init__(self, binding: Binding, open_stream: OpenStream, tasks: Tasks) -> None:
        self.binding = binding
        self._open_stream = open_stream
        self._tasks = tasks
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Raises ProaError as `bind` does."""
        listener = bind(self.binding.key)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Visitor(self), sock=listener, backlog=BACKLOG)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def visit(self, visitor: _Visitor) -> None:
        self._tasks.start(self._serve(visitor), name=f"connection to {self.binding.container}")

    async def _serve(self, visitor: _Visitor) -> None:
        """Lead one connection to the first target that takes it; none does: a reset, not a silent end."""
        refused: ProaError | None = None
        for target in self.binding.targets:
            try:
                stream = await self._open_stream(target)
            except ProaError as error:
                refused = error
                continue
            far = End()
            stream.attach(far)
            visitor.join(far)
            return
        log.info("port %d: %s", self.binding.key.host_port, refused)
        visitor.reset()


class _Visitor(End):
    """A connection from the host's side, held until the guest's side is there."""

    def __init__(self, listener: PortListener) -> None:
        super().__init__()
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._listener.visit(self)

    def join(self, other: End) -> None:
        if self.transport is None:  # the visitor left while the guest was asked
            if other.transport is not None:
                reset(other.transport)
            return
        super().join(other)

    def reset(self) -> None:
        if self.transport is not None:
            reset(self.transport)
