"""The splice of two connections: half-close, breaks, and ends that come before the other side is there."""

from __future__ import annotations

import asyncio
import socket

import pytest

from proa_guest.relay import End, reset


async def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.settimeout(5)
    return near, far


async def spliced() -> tuple[socket.socket, socket.socket]:
    """Two outer ends of a splice."""
    loop = asyncio.get_running_loop()
    one, inner_one = await pair()
    two, inner_two = await pair()
    a, b = End(), End()
    await loop.create_connection(lambda: a, sock=inner_one)
    await loop.create_connection(lambda: b, sock=inner_two)
    a.join(b)
    return one, two


async def test_each_direction_ends_by_itself() -> None:
    one, two = await spliced()
    one.sendall(b"question")
    one.shutdown(socket.SHUT_WR)
    assert await asyncio.to_thread(two.recv, 100) == b"question"
    assert await asyncio.to_thread(two.recv, 100) == b""
    two.sendall(b"answer")
    two.close()
    assert await asyncio.to_thread(one.recv, 100) == b"answer"
    assert await asyncio.to_thread(one.recv, 100) == b""
    one.close()


async def test_a_break_on_one_side_is_a_break_on_the_other() -> None:
    one, two = await spliced()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    one.close()
    with pytest.raises(ConnectionResetError):
        await asyncio.to_thread(two.recv, 100)
    two.close()


async def test_what_came_before_the_other_side_was_there_is_delivered_with_its_end() -> None:
    loop = asyncio.get_running_loop()
    one, inner_one = await pair()
    a, b = End(), End()
    await loop.create_connection(lambda: a, sock=inner_one)
    one.sendall(b"early")
    one.shutdown(socket.SHUT_WR)
    for _ in range(20):
        await asyncio.sleep(0.005)
    two, inner_two = await pair()
    await loop.create_connection(lambda: b, sock=inner_two)
    a.join(b)
    assert await asyncio.to_thread(two.recv, 100) == b"early"
    assert await asyncio.to_thread(two.recv, 100) == b""
    two.close()
    one.close()


async def test_a_connection_that_is_gone_can_be_reset_again() -> None:
    one, inner = await pair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=inner)
    for _ in range(3):
        reset(transport)
        await asyncio.sleep(0.01)
    one.close()
