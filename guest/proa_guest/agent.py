"""The guest agent: serves the link, and is the only thing in the guest that the host talks to.

Each connection proves the secret, is parked, and then becomes one stream: to the engine, to a TCP or
Unix address, a command, or the control stream. The guest opens nothing towards the host.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable, Coroutine

from proa_guest import share, wire
from proa_guest.call import Calls
from proa_guest.containers import Containers
from proa_guest.control import ControlEnd, Facts, Order
from proa_guest.execute import ExecEnd
from proa_guest.housekeeping import keep_house
from proa_guest.relay import End, reset
from proa_guest.sleep import FORGOTTEN, Sleeper

CONFIG = "/run/proa/config.json"
HANDSHAKE_TIMEOUT = 10.0  # seconds a stranger may hold a connection
MOST_STRANGERS = 64  # connections that have proved nothing yet
CONNECT_TIMEOUT = 10.0
BACKLOG = 512
EARLY = 1 << 20  # bytes the host may send before its target answers; more waits in the network


class Agent:
    """What all connections share. `path` is the file that `config` was read from."""

    def __init__(self, config: dict[str, object], path: str) -> None:
        self._config, self._path = config, path
        link = config["link"]
        assert isinstance(link, dict)
        self.secret = bytes.fromhex(str(link["secret"]))
        self.engine = str(config["engine_socket"])
        containers = Containers(self.engine)
        self.facts = Facts(
            str(config["init_state"]),
            self.engine,
            str(config["logs"]),
            str(config.get("beat", "")),
            before_ready=containers.first_start,
        )
        self.sleeper = Sleeper(containers)
        self.calls = Calls()
        self.shares = share.inherited() is not None
        self.strangers = 0
        self.connections: set[asyncio.Transport] = set()
        self._forgotten: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # -- around a memory image ----------------------------------------------------------------

    def orders(self) -> dict[str, Order]:
        """What the control stream takes that needs time."""

        def order(work: Callable[[dict[str, object]], dict[str, object]]) -> Order:
            async def carry_out(content: dict[str, object], _: asyncio.Transport) -> dict[str, object]:
                return await asyncio.to_thread(work, content)

            return carry_out

        found = {name: order(work) for name, work in self.sleeper.orders().items()}
        return {**found, "freeze": self._freeze, "wake": self._wake}

    async def _freeze(self, content: dict[str, object], _: asyncio.Transport) -> dict[str, object]:
        # Should the host's agent die now, containers go on by themselves.
        if self._forgotten is not None:
            self._forgotten.cancel()
        self._forgotten = asyncio.get_running_loop().call_later(FORGOTTEN, self.sleeper.forgotten)
        self.facts.rest()
        return await asyncio.to_thread(self.sleeper.freeze, content)

    async def _wake(self, content: dict[str, object], control: asyncio.Transport) -> dict[str, object]:
        """What must be so before a restored guest goes on (proa_guest.sleep)."""
        nonce = content.get("nonce")
        if not isinstance(nonce, str):
            raise wire.WireError("a nonce is missing")
        # Where no container speaks to the outside it is done before a thread would have begun.
        if self.sleeper.goes_elsewhere(content):
            ended = await asyncio.to_thread(self.sleeper.mend, content, elsewhere=True)
        else:
            ended = self.sleeper.mend(content, elsewhere=False)
        self._renew(wire.renewed(self.secret, nonce))
        for transport in self.connections - {control}:
            reset(transport)
        self.connections &= {control}
        due = self.sleeper.due()
        # Asked here it needs no stream, which right after a restore is what takes an emulated guest longest.
        engine = await self.facts.ping() if content.get("ask") is not False else ""
        return {"ended": ended, "due": due, "engine": engine}

    def _renew(self, secret: bytes) -> None:
        """Take a new secret, and leave it for an agent that is started again after this one."""
        link = self._config["link"]
        assert isinstance(link, dict)
        self._config = {**self._config, "link": {**link, "secret": secret.hex()}}
        content = json.dumps(self._config).encode()
        # One write of the same few bytes is whole or is not: a process that is killed tears none, and what
        # lies in memory needs no more. To replace the file costs an emulated guest a twentieth of its wake.
        handle = os.open(self._path, os.O_RDWR)
        try:
            if os.fstat(handle).st_size == len(content):
                os.pwrite(handle, content, 0)
                self.secret = secret
                return
        finally:
            os.close(handle)
        partial = self._path + ".new"
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(handle, content)
        finally:
            os.close(handle)
        os.replace(partial, self._path)  # noqa: PTH105
        self.secret = secret

    def keep(self, transport: asyncio.Transport) -> None:
        """Remember a connection, to end it after a restore."""
        self.connections = {known for known in self.connections if not known.is_closing()}
        self.connections.add(transport)

    def start(self, work: Coroutine[object, object, None], name: str) -> None:
        """Keep a task referenced; its failure is one line in the log."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log(f"{task.get_name()} failed: {type(error).__name__}: {error}")


class Stream(asyncio.Protocol):
    """One connection of the host's, until it becomes a stream of its own kind."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._handshake = wire.GuestHandshake(agent.secret)
        self._request: wire.Lines | None = None
        self._early = bytearray()
        self._eof = False
        self._taken = False  # a target was asked for: what comes now is its data
        self._stranger = True
        self._timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._agent.keep(transport)
        self._agent.strangers += 1
        if self._agent.strangers > MOST_STRANGERS:
            transport.abort()
            return
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT, transport.abort)
        transport.write(self._handshake.hello())

    def data_received(self, data: bytes) -> None:
        try:
            self._take(data)
        except wire.WireError as error:
            log(f"a connection was dropped: {error}")
            assert self.transport is not None
            self.transport.abort()

    def _take(self, data: bytes) -> None:
        assert self.transport is not None
        if self._taken:
            self._early += data
            if len(self._early) > EARLY:
                self.transport.pause_reading()
            return
        if self._request is None:
            if out := self._handshake.feed(data):
                self.transport.write(out)
            if not self._handshake.done:
                return
            self._known()
            self._request = wire.Lines(wire.MAX_REQUEST)
            data = self._handshake.rest
        line = self._request.feed(data)
        if line is None:
            return
        self._taken = True
        self._early += self._request.rest
        target, content = wire.read_request(line)
        self._agent.start(self._serve(target, content), f"stream to {target[:80]}")

    def _known(self) -> None:
        if self._stranger:
            self._stranger = False
            self._agent.strangers -= 1
        if self._timer is not None:
            self._timer.cancel()

    def eof_received(self) -> bool:
        self._eof = True
        return self._taken  # before a request there is nothing to wait for

    def connection_lost(self, error: Exception | None) -> None:
        self._known()
        self.transport = None

    async def _serve(self, target: str, content: dict[str, object]) -> None:
        """Connect to the target and hand the connection over, or refuse."""
        try:
            end = await self._end(target, content)
        except wire.WireError as error:
            self._refuse("unknown-target", str(error))
        except TimeoutError:
            self._refuse("target-silent", f"{target} did not answer within {CONNECT_TIMEOUT:.0f} s")
        except OSError as error:
            self._refuse("target-refused", f"{target}: {_reason(error)}")
        else:
            self._hand_over(end)

    async def _end(self, target: str, content: dict[str, object]) -> asyncio.Protocol:
        loop = asyncio.get_running_loop()
        near = End()
        far = End()
        async with asyncio.timeout(CONNECT_TIMEOUT):
            if target == "engine":
                await loop.create_unix_connection(lambda: far, self._agent.engine)
            elif target.startswith("unix:/"):
                await loop.create_unix_connection(lambda: far, target.removeprefix("unix:"))
            elif target.startswith("tcp:"):
                transport, _ = await loop.create_connection(lambda: far, *wire.tcp_target(target))
                no_delay(transport.get_extra_info("socket"))
            elif target == "control":
                return ControlEnd(self._agent.facts, self._agent.orders(), self._agent.start)
            elif target == "exec":
                return ExecEnd(content)
            elif target == "call" and self._agent.shares:
                return await self._agent.calls.begin(content)
            elif target == "reverse":
                return self._agent.calls.parked(content)
            elif target == "share" and self._agent.shares:
                return ShareEnd()
            else:
                raise wire.WireError(f"this guest has no target {target[:80]!r}")
        far.join(near)
        return near

    def _refuse(self, code: str, text: str) -> None:
        if self.transport is not None:
            self.transport.write(wire.refusal(code, text))
            self.transport.close()

    def _hand_over(self, end: asyncio.Protocol) -> None:
        transport = self.transport
        if transport is None:
            end.connection_lost(ConnectionResetError("the host went away"))
            return
        transport.write(wire.OK)
        transport.set_protocol(end)
        end.connection_made(transport)
        if self._early:
            end.data_received(bytes(self._early))
        transport.resume_reading()
        if self._eof:
            end.eof_received()


class ShareEnd(asyncio.Protocol):
    """Gives the connection to the relay of the host's folders, and keeps nothing of it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        connection = transport.get_extra_info("socket")
        no_delay(connection)
        try:
            with socket.socket(fileno=os.dup(connection.fileno())) as stream:
                relay = share.hand_over(stream)
            if relay is not None:
                reap(relay)
        except OSError as error:
            log(f"the host's folders have no relay: {error}")
        finally:
            transport.abort()  # closes this descriptor, not the connection


def reap(pid: int) -> None:
    """Take note of a child's end when it comes, so that nothing is left of it. Raises OSError."""
    loop, handle = asyncio.get_running_loop(), os.pidfd_open(pid)

    def ended() -> None:
        loop.remove_reader(handle)
        os.close(handle)
        os.waitpid(pid, 0)

    loop.add_reader(handle, ended)


def _reason(error: OSError) -> str:
    """In the system's words: asyncio puts its own in their place. A name's look-up has numbers of its own."""
    if error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return error.strerror or str(error)


def no_delay(connection: socket.socket) -> None:
    """Small answers leave at once: Nagle's wait would add 40 ms to each."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def log(text: str) -> None:
    """One line to the agent's log; what strangers sent is never in it."""
    sys.stderr.write(f"agent: {text}\n")


def listen(link: dict[str, object]) -> socket.socket:
    """The listening socket, made in the link's network namespace; the process itself stays in its own."""
    address = (str(link["address"]), int(str(link["port"])))
    namespace = link.get("netns")
    if not namespace:
        return _bound(address)
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(str(namespace), os.O_RDONLY)
    try:
        os.setns(there, os.CLONE_NEWNET)
        try:
            return _bound(address)
        finally:
            os.setns(own, os.CLONE_NEWNET)
    finally:
        os.close(own)
        os.close(there)


def _bound(address: tuple[str, int]) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(BACKLOG)
    no_delay(listener)  # connections inherit it
    return listener


async def serve(config: dict[str, object], path: str) -> None:
    """Serve the link until cancelled."""
    link = config["link"]
    assert isinstance(link, dict)
    agent = Agent(config, path)
    server = await asyncio.get_running_loop().create_server(lambda: Stream(agent), sock=listen(link))
    log(f"listening on {server.sockets[0].getsockname()}")
    agent.start(agent.facts.watch(), "watch")
    if "disk" in config:  # else it is no guest of its own
        agent.start(keep_house(str(config["disk"])), "housekeeping")
    await server.serve_forever()


def main(argv: list[str] | None = None) -> None:
    """Run the agent with the config file that is named, or init's."""
    path = (argv or sys.argv)[1] if len(argv or sys.argv) > 1 else CONFIG
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        config = json.load(file)
    asyncio.run(serve(config, path))


if __name__ == "__main__":
    main()
