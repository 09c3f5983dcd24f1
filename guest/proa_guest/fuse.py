"""Frames of the FUSE protocol as the relay sees them (linux/fuse.h), and its own among them."""

from __future__ import annotations

import struct

HEAD = struct.Struct("<IiQ")  # of a reply or a notice: length, error or code, request
REQUEST = struct.Struct("<IIQQIIIHH")  # length, op, request, node, uid, gid, pid, and what we need not know
# Of ours: notices that are no kernel's, and what the relay itself sends to the host.
NOTIFY_REPEAT, NOTIFY_ANTICIPATED, NOTIFY_LOOK = 0x5001, 0x5002, 0x5003
HELLO, TOLD, REPEATED, RELEASED, WATCHED = 0x50520001, 0x50520002, 0x50520003, 0x50520004, 0x50520005
# In a handle's number, by the host: that it is closed may be told a moment late, together with others.
CLOSED_LATE = 1 << 62


def own_request(op: int, number: int = 0, body: bytes = b"") -> bytes:
    """A request of the relay's own; nothing answers it."""
    return REQUEST.pack(REQUEST.size + len(body), op, 0, 0, 0, 0, number, 0, 0) + body


def reply(unique: int, body: bytes = b"", error: int = 0) -> bytes:
    """The whole answer to a request, `error` a number of Linux' or 0."""
    return HEAD.pack(HEAD.size + len(body), -error, unique) + body
