"""Files with holes keep them, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proa.system import sparse
from proa.system.sparse import allocated, blocks, copy_data, copy_sparse, make_memory

MIB = 1 << 20


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[int, int]]:
    files = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("from", "to")]
    yield files[0], files[1]
    for file in files:
        os.close(file)


def fill(fd: int) -> None:
    os.ftruncate(fd, 64 * MIB)
    os.pwrite(fd, b"a" * (3 * MIB), 5 * MIB)
    os.pwrite(fd, b"end", 64 * MIB - 3)


def test_a_copy_is_the_same_with_its_holes(pair: tuple[int, int]) -> None:
    source, target = pair
    fill(source)
    written = copy_sparse(source, target)
    assert os.fstat(target).st_size == 64 * MIB
    assert os.pread(target, 3 * MIB, 5 * MIB) == b"a" * (3 * MIB)
    assert os.pread(target, 4, 64 * MIB - 4) == b"\0end"
    assert written <= 5 * MIB and allocated(target) <= 5 * MIB


def test_what_has_holes_is_copied_as_it_is(pair: tuple[int, int]) -> None:
    source, _ = pair
    fill(source)
    memory = make_memory("test", 64 * MIB)
    assert memory is not None
    try:
        copy_data(source, memory)
        assert list(blocks(memory)) == list(blocks(source)) and allocated(memory) == allocated(source)
    finally:
        os.close(memory)


def test_one_that_ends_while_it_is_copied_is_an_error(
    pair: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = pair
    os.pwrite(source, b"x" * MIB, 0)
    monkeypatch.setattr(sparse, "extents", lambda _: iter([(0, 2 * MIB)]))
    with pytest.raises(OSError, match="ended early"):
        copy_data(source, target)


def test_blocks_are_the_content_wherever_the_holes_are(pair: tuple[int, int]) -> None:
    source, target = pair
    fill(source)
    os.pwrite(source, b"x", 12 * MIB + 5000)
    content = bytearray(64 * MIB)
    for at, data in blocks(source):
        content[at : at + len(data)] = data
    assert bytes(content) == os.pread(source, 64 * MIB, 0)
    assert [at // MIB for at, _ in blocks(source)] == [5, 6, 7, 12, 63]
    os.pwrite(target, bytes(content), 0)  # the same, without holes
    assert list(blocks(target)) == list(blocks(source))
    os.ftruncate(source, 5 * MIB + 3)
    assert list(blocks(source)) == [(5 * MIB, b"aaa")]


def test_memory_has_no_name_and_gives_back_what_is_punched_out(pair: tuple[int, int]) -> None:
    memory = make_memory("test", 64 * MIB)
    assert memory is not None
    try:
        assert allocated(memory) == 0
        fill(memory)
        assert 3 * MIB <= allocated(memory) <= 5 * MIB
        copy_sparse(memory, pair[1])
        assert os.pread(pair[1], 3 * MIB, 5 * MIB) == b"a" * (3 * MIB)
    finally:
        os.close(memory)


def test_zeros_that_were_written_become_a_hole(pair: tuple[int, int]) -> None:
    source, target = pair
    os.pwrite(source, bytes(8 * MIB), 0)
    assert copy_sparse(source, target) == 0
    assert os.fstat(target).st_size == 8 * MIB and allocated(target) == 0


def test_a_source_that_is_cut_off_meanwhile_is_an_error(
    pair: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.pwrite(pair[0], b"x", 0)
    monkeypatch.setattr(sparse, "extents", lambda fd: iter([(0, 2 * MIB)]))
    with pytest.raises(OSError, match="ended early"):
        copy_sparse(*pair)


def test_short_writes_are_gone_on_with_and_no_write_is_an_error(
    pair: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = pair
    os.pwrite(source, b"y" * 10_000, 0)
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: write(fd, bytes(data)[:999], at))
    copy_sparse(source, target)
    assert os.pread(target, 20_000, 0) == b"y" * 10_000
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: 0)
    with pytest.raises(OSError, match="nothing more"):
        copy_sparse(source, target)
