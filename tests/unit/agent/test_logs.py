"""A log that is followed: what is appended, also when the file is rotated, replaced or cut under it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from proa.agent.logs import read


async def _next(stream: AsyncIterator[bytes]) -> bytes:
    async with asyncio.timeout(10):
        return await anext(stream)


async def test_the_last_lines_come_once(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("one\ntwo\nthree\n")
    assert b"".join([piece async for piece in read(log, 2, follow=False)]) == b"two\nthree\n"
    assert [piece async for piece in read(log, 0, follow=False)] == []
    assert [piece async for piece in read(tmp_path / "none", 5, follow=False)] == []


async def test_following_survives_a_rotation_and_loses_nothing(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("one\n")
    stream = read(log, 5, follow=True)
    assert await _next(stream) == b"one\n"
    waiting = asyncio.ensure_future(_next(stream))
    await asyncio.sleep(0)
    with log.open("a") as file:
        file.write("two\n")
    log.rename(tmp_path / "x.log.1")
    # Longer than what was there: its size alone would not tell that it is another file.
    log.write_text("three, in the new file\n")
    told = await waiting
    while b"new file" not in told:
        told += await _next(stream)
    assert told == b"two\nthree, in the new file\n"


async def test_following_survives_a_cut_and_waits_for_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    stream = read(log, 5, follow=True)
    waiting = asyncio.ensure_future(_next(stream))
    await asyncio.sleep(0.05)
    log.write_text("first, and long\n")
    assert await waiting == b"first, and long\n"
    log.write_text("cut\n")
    assert await _next(stream) == b"cut\n"
