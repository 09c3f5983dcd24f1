"""Files with holes: copied without filling them, and memory that is a file without a name."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator

CHUNK = 1 << 20  # bytes read at once
PAGE = 4096
_NOTHING = bytes(CHUNK)


def make_memory(name: str, size: int) -> int | None:
    """A descriptor of `size` bytes of shared memory, empty; None where the system has none without a name.

    It has no path: when the last process that holds it ends, its memory is free again, so that no
    machine that died leaves anything in tmpfs. Raises OSError.
    """
    if sys.platform != "linux":
        return None
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd


def extents(fd: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of what is no hole, in order."""
    size = os.fstat(fd).st_size
    if sys.platform == "win32":
        yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end - start


def allocated(fd: int) -> int:
    """Bytes that are no hole."""
    return sum(length for _, length in extents(fd))


def blocks(fd: int) -> Iterator[tuple[int, bytes]]:
    """(offset, content) of every block of CHUNK bytes that is not all zeros, in order.

    It is the same for the same content, wherever a file system has put holes.
    """
    seen = 0
    for start, length in extents(fd):
        for at in range(max(seen, start // CHUNK * CHUNK), start + length, CHUNK):
            seen = at + CHUNK
            data = _read(fd, at)
            if data != _NOTHING[: len(data)]:
                yield at, data


def _read(fd: int, at: int) -> bytes:
    """A block, less of it where the file ends."""
    parts: list[bytes] = []
    if sys.platform == "win32":
        os.lseek(fd, at, os.SEEK_SET)
    while (wanted := CHUNK - sum(map(len, parts))) > 0:
        if sys.platform == "win32":
            data = os.read(fd, wanted)
        else:
            data = os.pread(fd, wanted, at + CHUNK - wanted)
        if not data:
            break
        parts.append(data)
    return b"".join(parts)


def copy_sparse(source: int, target: int) -> int:
    """Make the empty file `target` a copy of `source`, with its holes; bytes written. Raises OSError.

    What is all zeros is left a hole. A `source` that ends early raises EIO.
    """
    if sys.platform == "win32":
        raise OSError(errno.ENOSYS, "no driver keeps memory in files on this system")
    written = 0
    os.ftruncate(target, os.fstat(source).st_size)
    for start, length in extents(source):
        at, end = start, start + length
        while at < end:
            data = os.pread(source, min(CHUNK, end - at), at)
            if not data:
                raise OSError(errno.EIO, "the file ended early")
            written += _write(target, data, at)
            at += len(data)
    return written


def copy_data(source: int, target: int) -> None:
    """Make `target`, empty and of the same size, a copy of `source`, whose zeros are holes. Raises OSError.

    By the kernel alone (sendfile(2)): of 350 MiB in its memory 0.15 s, where `copy_sparse` takes 0.2.
    A `source` that ends early raises EIO.
    """
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "no driver keeps memory in files on this system")
    for start, length in extents(source):
        os.lseek(target, start, os.SEEK_SET)
        at, end = start, start + length
        while at < end:
            sent = os.sendfile(target, source, at, end - at)
            if not sent:
                raise OSError(errno.EIO, "the file ended early")
            at += sent


def _write(target: int, data: bytes, at: int) -> int:
    """Write the pages of `data` that are not all zeros; bytes written."""
    if sys.platform == "win32" or data == _NOTHING[: len(data)]:
        return 0
    view = memoryview(data)
    done = 0
    while done < len(data):
        wrote = os.pwrite(target, view[done:], at + done)
        if wrote <= 0:
            raise OSError(errno.EIO, "nothing more was written")
        done += wrote
    return len(data)
