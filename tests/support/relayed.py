"""Frames as the guest's kernel and the host send them, for tests of what the relay makes of them."""

from __future__ import annotations

import stat
import struct

from proa_guest import anticipated
from proa_guest.anticipated import BATCH_FORGET, LOOKUP, OPEN, READ, RELEASE, Anticipated
from proa_guest.fuse import HEAD, REQUEST

FOLDER, OTHER, FILE = 7, 8, 10
# As fuse_attr_out has them, which has the mode behind 76 bytes.
ATTRIBUTES = b"a" * 76 + (stat.S_IFDIR | 0o755).to_bytes(4, "little") + b"a" * 24
ATTRIBUTES_OF_FILE = b"a" * 76 + (stat.S_IFREG | 0o644).to_bytes(4, "little") + b"a" * 24


def request(op: int, node: int = FOLDER, body: bytes = b"", *, unique: int = 2, pid: int = 1) -> memoryview:
    head = REQUEST.pack(REQUEST.size + len(body), op, unique, node, 0, 0, pid, 0, 0)
    return memoryview(bytearray(head + body))


def look(name: bytes, folder: int = FOLDER, **more: int) -> memoryview:
    return request(LOOKUP, folder, name + b"\0", **more)


def listing(op: int, at: int) -> memoryview:
    return request(op, FOLDER, struct.pack("<QQI", 5, at, 4096))


def entry(node: int) -> bytes:
    return struct.pack("<Q", node).ljust(anticipated.ANSWER, b"e")


def pushed(
    *entries: tuple[int, bytes],
    folder: int = FOLDER,
    attributes: bytes = b"",
    end: int = 0,
    unique: int = 99,
    what: int = 0,
) -> bytes:
    parts = [anticipated.PUSHED.pack(unique, folder, end, len(entries), len(attributes), what), attributes]
    for node, name in entries:
        parts.append(entry(node) + struct.pack("<H", len(name)) + name)
    return b"".join(parts)


def notice(code: int, body: bytes) -> bytes:
    return HEAD.pack(HEAD.size + len(body), code, 0) + body


def forgotten(here: Anticipated) -> set[int]:
    """What is reported to the host as dropped."""
    report = here.forgotten(all_of_them=True)
    if not report:
        return set()
    size, op, *_ = REQUEST.unpack_from(report)
    assert (size, op) == (len(report), BATCH_FORGET)
    [count, _] = anticipated.BATCH.unpack_from(report, REQUEST.size)
    start = REQUEST.size + anticipated.BATCH.size
    nodes = list(anticipated.FORGOTTEN.iter_unpack(report[start:]))
    assert len(nodes) == count and all(times == 1 for _, times in nodes)
    return {node for node, _ in nodes}


def read(offset: int, size: int, node: int = FILE) -> memoryview:
    return request(READ, node, struct.pack("<QQIIQII", 5, offset, size, 0, 0, 0, 0))


def opening(flags: int = 0, **more: int) -> memoryview:
    return request(OPEN, FILE, struct.pack("<II", flags, 0), **more)


def closing(handle: int, **more: int) -> memoryview:
    return request(RELEASE, FILE, struct.pack("<QIIQ", handle, 0, 0, 0), **more)
