"""The guest's Docker CLI over the API: the streams that it claims."""

from __future__ import annotations

import asyncio
import socket

import pytest

from proa.agent.calls import Reverse
from proa_guest import wire


class Serving(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard = b""

    def data_received(self, data: bytes) -> None:
        self.heard += data


async def reverse() -> tuple[socket.socket, list[Serving], list[str]]:
    """The guest's side of a parked stream, who serves it, and what was said of it."""
    near, far = socket.socketpair()
    served: list[Serving] = []
    claimed: list[str] = []

    def serve() -> Serving:
        served.append(Serving())
        return served[-1]

    await asyncio.get_running_loop().create_connection(
        lambda: Reverse(serve, lambda: claimed.append("claimed")), sock=near
    )
    return far, served, claimed


async def soon(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("pieces", [[b"claim\nGET /"], [b"cl", b"aim\n", b"GET /"], [b"claim", b"\nGET /"]])
async def test_a_claimed_stream_is_served_with_all_that_came(pieces: list[bytes]) -> None:
    guest, served, claimed = await reverse()
    for piece in pieces:
        guest.sendall(piece)
        await asyncio.sleep(0)
    await soon(lambda: served and served[0].heard == b"GET /")
    assert claimed == ["claimed"]
    guest.close()


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"claim!\n", b"\n"])
async def test_what_is_no_claim_ends_the_stream(said: bytes) -> None:
    guest, served, claimed = await reverse()
    guest.setblocking(False)
    guest.sendall(said)
    async with asyncio.timeout(10):
        assert await asyncio.get_running_loop().sock_recv(guest, 10) == b""
    assert not served and not claimed
    guest.close()


def test_the_claim_is_the_wires() -> None:
    assert wire.CLAIM.endswith(b"\n")
