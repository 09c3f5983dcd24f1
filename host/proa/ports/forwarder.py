"""A machine's table of published ports: bound, led elsewhere, given back, and tried again where taken."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from proa.model.errors import ProaError
from proa.model.events import Emit, EventKind
from proa.model.machine import PublishedPort
from proa.model.problem import Problem
from proa.ports.listener import OpenStream, PortListener
from proa.ports.planner import Bind, Binding, Key, Retarget, Unbind, overlap, plan
from proa.system.tasks import Tasks

log = logging.getLogger("proa.ports")

FIRST_RETRY, MOST_RETRY = 0.5, 5.0  # seconds between attempts at a port that is taken


class PortForwarder:
    """Binds what it is told to, and says what could not be bound."""

    def __init__(
        self, machine: str, open_stream: OpenStream, emit: Emit, holder: Callable[[Key], str | None]
    ) -> None:
        """`holder` names who of Proa's own holds a port: a container of another machine, say."""
        self._machine = machine
        self._emit = emit
        self._holder = holder
        self._open_stream = open_stream
        self._tasks = Tasks(f"ports of {machine}")
        self._wanted: dict[Key, Binding] = {}
        self._listeners: dict[Key, PortListener] = {}
        self._problems: dict[Key, Problem] = {}
        self._retry: asyncio.Task[None] | None = None

    async def apply(self, want: dict[Key, Binding]) -> None:
        """Make the table what is wanted."""
        for step in plan(self._wanted, want):
            match step:
                case Unbind(key):
                    self._drop(key)
                case Retarget(binding):
                    if binding.key in self._listeners:
                        self._listeners[binding.key].binding = binding
                case Bind(binding):
                    await self._bind(binding)
        self._wanted = dict(want)
        if self._problems and (self._retry is None or self._retry.done()):
            self._retry = self._tasks.start(self._try_again(), name="taken ports")

    async def _bind(self, binding: Binding) -> None:
        key = binding.key
        if key.protocol != "tcp":
            self._problems[key] = _not_yet(key)
            return
        listener = PortListener(binding, self._open_stream, self._tasks)
        try:
            await listener.open()
        except ProaError as error:
            if key.host_ip == "::" and error.code == "address-not-here":
                return  # a host without IPv6: its 0.0.0.0 twin is all there is to bind
            if error.code == "port-taken" and (ours := self._holder(key)):
                error.why = f"by {ours}"
            problem = Problem.of(error)
            if key not in self._problems:
                done = "tried again until it is free" if error.code == "port-taken" else ""
                self._emit(EventKind.PORT, f"{binding.container}: {error}", done=done, problem=problem)
            self._problems[key] = problem
            return
        if self._problems.pop(key, None):
            self._emit(EventKind.PORT, f"{binding.container}: port {key.host_port} is bound now")
        self._listeners[key] = listener

    def _drop(self, key: Key) -> None:
        self._problems.pop(key, None)
        listener = self._listeners.pop(key, None)
        if listener is not None:
            listener.close()

    async def _try_again(self) -> None:
        """A port that is taken is taken over as soon as it is free."""
        delay = FIRST_RETRY
        while any(problem.code != "udp-not-yet" for problem in self._problems.values()):
            await asyncio.sleep(delay)
            delay = min(delay * 2, MOST_RETRY)
            for key in list(self._problems):
                if key in self._wanted and key not in self._listeners:
                    await self._bind(self._wanted[key])

    def holds(self, key: Key) -> str | None:
        """The container of this machine whose port is bound where `key` would have to be."""
        for mine in self._listeners:
            if overlap(mine, key):
                return self._wanted[mine].container if mine in self._wanted else None
        return None

    def bindings(self) -> tuple[Binding, ...]:
        """What it was told last."""
        return tuple(self._wanted.values())

    def table(self) -> tuple[PublishedPort, ...]:
        """Every published port, and why it is not bound where it is not."""
        return tuple(
            PublishedPort(
                machine=self._machine,
                container=binding.container,
                host_ip=key.host_ip,
                host_port=key.host_port,
                container_port=binding.container_port,
                protocol=key.protocol,
                problem=self._problems.get(key),
            )
            for key, binding in sorted(
                self._wanted.items(), key=lambda item: (item[0].host_port, item[0].host_ip)
            )
        )

    async def close(self) -> None:
        """Give all ports back and end what is relayed."""
        for key in list(self._listeners):
            self._drop(key)
        self._wanted = {}
        await self._tasks.close()


def _not_yet(key: Key) -> Problem:
    return Problem(
        code="udp-not-yet",
        message=f"port {key.host_port}/{key.protocol} is not forwarded",
        why=f"Proa forwards TCP so far, and this is {key.protocol.upper()}",
        hint="it can be reached from other containers",
    )
