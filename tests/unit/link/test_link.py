"""Pool, streams, control and exec against the real guest agent, natively."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from proa.link.control import Control
from proa.link.loopback import Loopback
from proa.link.pool import PARKED, LinkPool
from proa.model.errors import ProaError
from proa.system.tasks import Tasks
from proa_guest import wire
from tests.support.links import streams
from tests.support.native import NativeAgent, native_agent

P = TypeVar("P", bound=asyncio.Protocol)
READY = {"state": "ready", "restarts": 0, "message": ""}


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[NativeAgent]:
    with native_agent(tmp_path) as agent:
        yield agent


@pytest.fixture
async def pool(agent: NativeAgent) -> AsyncIterator[LinkPool]:
    tasks = Tasks("test")
    pool = LinkPool(Loopback("127.0.0.1", agent.port), agent.secret, tasks)
    yield pool
    await pool.close()
    await tasks.close()


async def echo_server(hash_only: bool = False) -> tuple[asyncio.Server, str]:
    """Echoes, or reads to the end and answers with the hash: only true half-close passes that."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if hash_only:
            digest = hashlib.sha256()
            while data := await reader.read(1 << 16):
                digest.update(data)
            writer.write(digest.hexdigest().encode())
        else:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_half_close_both_ways_and_every_byte(pool: LinkPool) -> None:
    server, target = await echo_server(hash_only=True)
    async with server:
        data = os.urandom(8 << 20)
        reader, writer = streams(await pool.open(target, early=data[:1000]))
        writer.write(data[1000:])
        writer.write_eof()
        assert (await reader.read()).decode() == hashlib.sha256(data).hexdigest()
        writer.close()


@pytest.mark.parametrize("parked", [0, 1])
async def test_what_is_asked_along_with_the_proof_is_as_any_other(agent: NativeAgent, parked: int) -> None:
    tasks = Tasks("test")
    pool = LinkPool(Loopback("127.0.0.1", agent.port), agent.secret, tasks, parked)
    server, target = await echo_server()
    async with server, asyncio.timeout(20):
        while len(pool._parked) < parked:
            await asyncio.sleep(0.01)  # the keeper has no event for a test
        reader, writer = streams(await pool.open(target, early=b"first"))
        writer.write(b"second")
        assert await reader.readexactly(11) == b"firstsecond"
        writer.close()
        with pytest.raises(ProaError) as caught:
            await pool.open("tcp:127.0.0.1:1", early=b"first")
        assert caught.value.code == "link-refused"
    await pool.close()
    await tasks.close()


async def test_two_hundred_streams_at_once(pool: LinkPool, agent: NativeAgent) -> None:
    server, target = await echo_server()

    async def one(number: int) -> None:
        reader, writer = streams(await pool.open(target))
        data = hashlib.sha256(str(number).encode()).digest() * 2000
        writer.write(data)
        writer.write_eof()
        assert await reader.read() == data
        writer.close()

    await one(-1)
    before = agent.descriptors()
    async with server:
        await asyncio.gather(*(one(number) for number in range(200)))
        async with asyncio.timeout(10):
            while agent.descriptors() > before + 4:
                await asyncio.sleep(0.02)


async def test_a_slow_reader_is_waited_for_with_bounded_memory(pool: LinkPool, agent: NativeAgent) -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        try:
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()
                sent += 1 << 16
        except ConnectionError:
            return

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with server:
        before = agent.memory()
        stream = await pool.open(f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}")
        seen = -1
        async with asyncio.timeout(20):
            while seen != sent:  # until the flood stands still: back-pressure reached it
                seen = sent
                await asyncio.sleep(0.3)
        assert sent < 64 << 20
        assert agent.memory() - before < 8 << 20
        stream.abort()
        server.close()


async def test_what_the_guest_cannot_open_is_said(pool: LinkPool) -> None:
    for target, word in (("tcp:127.0.0.1:1", "refused"), ("unix:/nowhere", "No such file"), ("moon", "moon")):
        with pytest.raises(ProaError) as caught:
            await pool.open(target)
        assert caught.value.code == "link-refused"
        assert word in caught.value.why


async def test_nobody_there_is_said_within_the_bound() -> None:
    tasks = Tasks("test")
    pool = LinkPool(Loopback("127.0.0.1", 1), b"x" * 32, tasks)
    with pytest.raises(ProaError) as caught:
        await pool.open("engine", timeout=2)
    assert caught.value.code == "link-down"
    await pool.close()
    await tasks.close()


class _FirstGoAstray:
    """A transport whose first connections are accepted and never answered."""

    def __init__(self, count: int, astray: int, port: int) -> None:
        self.dials = 0
        self._count = count
        self._astray = Loopback("127.0.0.1", astray)
        self._right = Loopback("127.0.0.1", port)

    async def connect(self, factory: Callable[[], P]) -> P:
        self.dials += 1
        return await (self._astray if self.dials <= self._count else self._right).connect(factory)


@pytest.mark.parametrize(("astray", "stuck", "timeout"), ((1, 0.05, 60.0), (1, 60.0, 0.3), (3, 0.05, 0.3)))
async def test_a_handshake_that_gets_stuck_is_made_again(
    agent: NativeAgent, monkeypatch: pytest.MonkeyPatch, astray: int, stuck: float, timeout: float
) -> None:
    """QEMU's user network accepts more connections at once than it delivers."""
    monkeypatch.setattr("proa.link.pool.STUCK", stuck)
    monkeypatch.setattr("proa.link.pool.HANDSHAKE_TIMEOUT", timeout)
    tasks = Tasks("test")
    silent = socket.create_server(("127.0.0.1", 0))
    transport = _FirstGoAstray(astray, silent.getsockname()[1], agent.port)
    pool = LinkPool(transport, agent.secret, tasks, parked=0)
    server, target = await echo_server(hash_only=True)
    try:
        reader, writer = streams(await pool.open(target))
        writer.write_eof()
        assert (await reader.read()).decode() == hashlib.sha256(b"").hexdigest()
        assert transport.dials >= astray + 1
        writer.close()
        silent.settimeout(5)
        for _ in range(astray):
            with silent.accept()[0] as connection:
                connection.settimeout(5)
                with pytest.raises(ConnectionResetError):
                    connection.recv(1)
    finally:
        server.close()
        silent.close()
        await pool.close()
        await tasks.close()


@pytest.mark.parametrize(
    ("target", "extra", "told"),
    [("engine", None, b'{"target": "engine"}\n'), ("exec", {"argv": ["secret"]}, b""), ("share", None, b"")],
)
async def test_an_impostor_on_the_port_gets_no_stream(
    target: str, extra: dict[str, object] | None, told: bytes
) -> None:
    """And hears at most which target is meant."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(wire.GuestHandshake(b"y" * 32).hello())
        _, _, more = (await reader.read(1 << 16)).partition(b"\n")
        writer.write(b"0" * 64 + b"\nok\n")
        heard.put_nowait(more + await _rest(reader))

    server = await asyncio.start_server(impostor, "127.0.0.1", 0)
    tasks = Tasks("test")
    pool = LinkPool(Loopback("127.0.0.1", server.sockets[0].getsockname()[1]), b"x" * 32, tasks, parked=0)
    async with server:
        with pytest.raises(ProaError) as caught:
            await pool.open(target, early=b"secret", extra=extra, timeout=5)
        assert caught.value.code == "link-not-proved"
        assert await asyncio.wait_for(heard.get(), 10) == told
        await pool.close()
    await tasks.close()


async def test_malformed_input_costs_its_connection_and_nothing_else(
    pool: LinkPool, agent: NativeAgent
) -> None:
    server, target = await echo_server()
    reader, writer = streams(await pool.open(target))
    before = agent.descriptors()
    for number in range(80):
        stranger_reader, stranger = await asyncio.open_connection("127.0.0.1", agent.port)
        await stranger_reader.readline()
        stranger.write(os.urandom(50 * number) + b"\n" if number % 2 else b"PROA 1 " + b"x" * 5000)
        stranger.write_eof()
        async with asyncio.timeout(5):
            assert await _rest(stranger_reader) == b""
        stranger.close()
    async with server:
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        writer.close()
    assert agent.descriptors() <= before + PARKED, "but for streams that were parked meanwhile"


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def test_strangers_who_say_nothing_do_not_shut_others_out(pool: LinkPool, agent: NativeAgent) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", agent.port) for _ in range(100)]
    server, target = await echo_server()
    async with server:
        async with asyncio.timeout(15):
            reader, writer = streams(await pool.open(target))
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        writer.close()
    for _, stranger in silent:
        stranger.close()


async def test_control_tells_changes_and_takes_orders(pool: LinkPool, agent: NativeAgent) -> None:
    tasks = Tasks("control")
    control = Control(pool, tasks)
    agent.tell(services={"containerd": {**READY, "state": "starting"}}, disk={"state": "ready", "free": 5})
    status = await control.wait_until(lambda now: "containerd" in now.services, 10)
    assert status.services["containerd"].state == "starting"
    agent.tell(services={"containerd": READY}, disk={"state": "full", "message": "1 MiB left"})
    status = await control.wait_until(lambda now: now.disk.state == "full", 10)
    assert status.disk.message == "1 MiB left"
    (agent.folder / "dockerd.log").write_text("one\ntwo\nthree\n")
    assert await control.log("dockerd", 2) == ("two", "three")
    with pytest.raises(TimeoutError):
        await control.wait_until(lambda now: now.engine.state == "ready", 0.2)
    with pytest.raises(ProaError):
        await control.log("../secrets", 5)
    await control.wait_until(lambda now: now.disk.state == "full", 10)  # and it is connected again
    await control.close()
    await tasks.close()


async def test_of_a_long_log_comes_what_fits_into_a_message(pool: LinkPool, agent: NativeAgent) -> None:
    lines = [f"{number} " + "\N{SNOWMAN}" * 100 for number in range(5000)]
    (agent.folder / "dockerd.log").write_text("\n".join(lines))
    tasks = Tasks("control")
    control = Control(pool, tasks)
    found = await control.log("dockerd", 10_000)
    assert len(found) > 1000 and found == tuple(lines[-len(found) :])
    await control.close()
    await tasks.close()


async def test_an_order_waits_for_a_stream_not_open_yet_or_just_lost(
    pool: LinkPool, agent: NativeAgent
) -> None:
    (agent.folder / "dockerd.log").write_text("one\n")
    tasks = Tasks("control")
    control = Control(pool, tasks)
    assert await control.log("dockerd", 1) == ("one",)
    with pytest.raises(ProaError) as caught:
        await control.order({"op": "status", "padding": "x" * (wire.MAX_MESSAGE + 1)})
    assert caught.value.code == "link-down"
    assert await control.log("dockerd", 1) == ("one",)
    await control.close()
    await tasks.close()


async def test_an_order_to_nobody_is_refused_within_its_bound() -> None:
    tasks = Tasks("control")
    pool = LinkPool(Loopback("127.0.0.1", 1), b"x" * 32, tasks)
    control = Control(pool, tasks)
    with pytest.raises(ProaError) as caught:
        async with asyncio.timeout(5):
            await control.order({"op": "status"}, timeout=0.5)
    assert caught.value.code == "link-down"
    await control.close()
    await pool.close()
    await tasks.close()


async def run_command(
    pool: LinkPool, argv: list[str], send: bytes = b"", **extra: object
) -> tuple[bytes, bytes, int]:
    reader, writer = streams(await pool.open("exec", extra={"argv": argv, **extra}))
    writer.write(send)
    out = {wire.STDOUT: b"", wire.STDERR: b""}
    frames = wire.Frames()
    status = -1
    while data := await reader.read(1 << 16):
        for kind, payload in frames.feed(data):
            assert status == -1, "nothing comes after the exit"
            if kind == wire.EXIT:
                status = wire.exit_status(payload)
            elif kind != wire.TAKEN:
                out[kind] += payload
    writer.close()
    return out[wire.STDOUT], out[wire.STDERR], status


async def test_a_commands_output_errors_and_status(pool: LinkPool) -> None:
    assert await run_command(pool, ["sh", "-c", "echo out; echo err >&2; exit 3"]) == (b"out\n", b"err\n", 3)
    assert (await run_command(pool, ["sh", "-c", "kill -9 $$"]))[2] == 137
    assert (await run_command(pool, ["/no/such/program"]))[2] == 127


async def test_a_commands_input_ends_and_all_of_it_arrives(pool: LinkPool) -> None:
    data = os.urandom(3 << 20)
    frames = b"".join(wire.frame(wire.STDIN, data[at : at + 50_000]) for at in range(0, len(data), 50_000))
    out, _, status = await run_command(pool, ["sha256sum"], frames + wire.frame(wire.STDIN_EOF))
    assert (out.split()[0].decode(), status) == (hashlib.sha256(data).hexdigest(), 0)


async def test_it_is_said_how_much_input_is_taken(pool: LinkPool) -> None:
    """Also of what the command reads no more: a host that waits for it would else wait for ever."""
    reader, writer = streams(
        await pool.open("exec", extra={"argv": ["sh", "-c", "exec <&-; echo; exec sleep 60"]})
    )
    taken, frames = 0, wire.Frames()
    writer.write(wire.frame(wire.STDIN, bytes(100_000)))
    async with asyncio.timeout(20):
        while taken < 300_000:
            for kind, payload in frames.feed(await reader.read(1 << 16)):
                if kind == wire.STDOUT:
                    writer.write(wire.frame(wire.STDIN, bytes(200_000)))
                taken += int.from_bytes(payload, "big") if kind == wire.TAKEN else 0
    assert taken == 300_000
    writer.close()


async def test_a_large_output_is_drained_before_the_exit(pool: LinkPool) -> None:
    out, _, status = await run_command(pool, ["head", "-c", "5000000", "/dev/zero"])
    assert (len(out), status) == (5_000_000, 0)


async def test_a_terminal_has_a_size_that_changes_and_keys_that_interrupt(pool: LinkPool) -> None:
    # The command says that it is in the foreground: a key before that would interrupt the shell alone.
    command = b"stty size; tty; sh -c \"echo wait''ing; exec cat\"\n"
    send = wire.resize(33, 101) + wire.frame(wire.STDIN, command)
    reader, writer = streams(await pool.open("exec", extra={"argv": ["sh"], "tty": True}))
    writer.write(send)
    text, frames, status = b"", wire.Frames(), -1
    interrupted = answered = False
    async with asyncio.timeout(15):
        while data := await reader.read(1 << 16):
            for kind, payload in frames.feed(data):
                text += payload if kind == wire.STDOUT else b""
                status = wire.exit_status(payload) if kind == wire.EXIT else status
            if b"33 101" in text and b"/dev/pts/" in text and b"waiting" in text and not interrupted:
                interrupted = True
                writer.write(wire.frame(wire.STDIN, b"\x03"))
            # Typed ahead of the prompt it might still be read by the command that is being interrupted.
            if not answered and text.partition(b"^C")[2].endswith((b"# ", b"$ ")):
                answered = True
                writer.write(wire.frame(wire.STDIN, b"exit 5\n"))
    assert interrupted and status == 5
    writer.close()


async def test_a_command_ends_with_its_stream(pool: LinkPool) -> None:
    reader, writer = streams(await pool.open("exec", extra={"argv": ["sh", "-c", "echo $$; sleep 600"]}))
    frames = wire.Frames()
    pid = 0
    while not pid:
        for kind, payload in frames.feed(await reader.read(1 << 16)):
            pid = int(payload) if kind == wire.STDOUT else pid
    writer.transport.abort()
    async with asyncio.timeout(10):
        while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
            await asyncio.sleep(0.02)
