"""A stream's frames, of any size and in any pieces, come out whole, and large ones where they are to be."""

from __future__ import annotations

import mmap
import random
import socket
import threading

import pytest

from proa.shares import server
from proa.shares.protocol import IN_HEADER, MAX_FRAME
from proa.shares.server import Channel


def _frame(size: int) -> bytes:
    return IN_HEADER.pack(size, 1, size, 1, 0, 0, 0, 0, 0) + random.randbytes(size - IN_HEADER.size)


@pytest.mark.parametrize("close", (0.0, 0.001))
@pytest.mark.parametrize("piece", (1 << 21, 40_000, 1_000))
def test_frames_come_out_as_they_went_in(piece: int, close: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waited for in either way."""
    monkeypatch.setattr(server, "CLOSE", close)
    sizes = [
        IN_HEADER.size,
        100,
        65_536,
        65_537,
        100,
        130_000,
        131_072,
        300_000,
        41,
        MAX_FRAME,
        MAX_FRAME,
        50,
    ]
    frames = [_frame(size) for size in sizes]
    ours, theirs = socket.socketpair()

    def send() -> None:
        whole = b"".join(frames)
        with theirs:
            for start in range(0, len(whole), piece):
                theirs.sendall(whole[start : start + piece])

    sending = threading.Thread(target=send)
    sending.start()
    channel = Channel(ours, lambda: None)
    large = memoryview(mmap.mmap(-1, MAX_FRAME))
    small = []
    for frame in frames:
        read = channel.read(large)
        assert read is not None and read == frame
        if read.obj is not large.obj:
            small.append((read, frame))
    assert channel.read(large) is None
    sending.join()
    channel.close()
    assert all(read == frame for read, frame in small), "they stay as they are while others are read"


def test_one_that_is_cut_off_is_none() -> None:
    for size in (1_000, 200_000):
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(_frame(size)[: size - 1])
        channel = Channel(ours, lambda: None)
        assert channel.read(memoryview(mmap.mmap(-1, MAX_FRAME))) is None
        channel.close()
