"""The output of commands, from the real guest agent as a process of this host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proa.link.loopback import Loopback
from proa.link.output import MOST_OUTPUT, command_output, command_pieces
from proa.link.pool import LinkPool
from proa.model.errors import ProaError
from proa.system.tasks import Tasks
from tests.support.native import native_agent


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[LinkPool]:
    with native_agent(tmp_path) as agent:
        tasks = Tasks("test")
        pool = LinkPool(Loopback("127.0.0.1", agent.port), agent.secret, tasks)
        yield pool
        await pool.close()
        await tasks.close()


async def test_all_of_a_commands_output_is_had(pool: LinkPool) -> None:
    assert await command_output(pool.open, ["echo", "hello"], 20) == b"hello\n"
    size = MOST_OUTPUT - 1
    out = await command_output(pool.open, ["head", "-c", str(size), "/dev/zero"], 20)
    assert out == bytes(size)


async def test_a_command_that_takes_too_long_or_says_too_much_is_given_up(pool: LinkPool) -> None:
    with pytest.raises(ProaError) as caught:
        await command_output(pool.open, ["sleep", "60"], 0.5)
    assert caught.value.code == "link-down"
    with pytest.raises(ProaError) as caught:
        await command_output(pool.open, ["head", "-c", str(2 * MOST_OUTPUT), "/dev/zero"], 20)
    assert caught.value.code == "guest-unclear"


async def test_a_slow_reader_loses_nothing(pool: LinkPool) -> None:
    size, got = 20 << 20, 0
    async with (
        asyncio.timeout(50),
        command_pieces(pool.open, ["head", "-c", str(size), "/dev/zero"]) as pieces,
    ):
        async for piece in pieces:
            if got == 0:
                await asyncio.sleep(0.5)
            got += len(piece)
    assert got == size
