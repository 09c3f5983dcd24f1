"""Requests that an earlier server was at when it was killed: they may have been carried out, or not.

The guest sends them again, as it got no answer. The host's files tell which of the two it is.
"""

from __future__ import annotations

import dataclasses
import errno
import struct

from proa.shares import protocol
from proa.shares.handles import Body
from proa.shares.operations import Operations
from proa.shares.protocol import APPEND, EXCLUSIVE, Op, Request, fields
from proa.system import beneath

# How each ends that has been carried out before, and where in its body the name of what it made is.
_DONE = {
    Op.MKNOD: errno.EEXIST, Op.MKDIR: errno.EEXIST, Op.SYMLINK: errno.EEXIST, Op.LINK: errno.EEXIST,
    Op.UNLINK: errno.ENOENT, Op.RMDIR: errno.ENOENT, Op.RENAME: errno.ENOENT, Op.RENAME2: errno.ENOENT,
    Op.SETXATTR: errno.EEXIST, Op.REMOVEXATTR: errno.ENODATA,
}  # fmt: skip
_NAME_AT = {Op.MKNOD: 16, Op.MKDIR: 8, Op.SYMLINK: 0, Op.LINK: 8}
_TO_NAMES_AT = {Op.RENAME: 8, Op.RENAME2: 16}


def matters(request: Request) -> bool:
    """Whether it must be known, should the server be killed; the rest can be done twice without harm."""
    if request.op == Op.CREATE:
        return bool(fields("<I", request.body)[0] & EXCLUSIVE)
    if request.op == Op.WRITE:
        return _appends(request)
    return request.op in _DONE


def _appends(request: Request) -> bool:
    how, flags = fields("<20xI8xI", request.body)
    return bool(flags & APPEND and not how & protocol.WRITE_CACHE)


def answer(operations: Operations, request: Request) -> Body | None:
    """As if it had not been carried out before. Raises OSError, Refused, FrameError."""
    if request.op == Op.CREATE:
        return operations.answer(_not_exclusive(request))
    if request.op == Op.WRITE and (written := _appended(operations, request)):
        return struct.pack("<I4x", written)
    try:
        return operations.answer(request)
    except OSError as error:
        if error.errno != _DONE.get(Op(request.op)):
            raise
        return _done(operations, request, error)


def _not_exclusive(request: Request) -> Request:
    [flags] = fields("<I", request.body)
    body = struct.pack("<I", flags & ~EXCLUSIVE) + bytes(request.body[4:])
    return dataclasses.replace(request, body=memoryview(body))


def _appended(operations: Operations, request: Request) -> int:
    """How much of it is at the file's end already."""
    if not _appends(request):
        return 0
    number, offset, size = fields("<QQI", request.body)
    length = beneath.fstat(operations.handles.file(number).file.number).st_size
    return min(size, max(0, length - offset))


def _done(operations: Operations, request: Request, error: OSError) -> Body | None:
    if request.op in _NAME_AT:
        [name] = protocol.names(request.body, _NAME_AT[Op(request.op)], 1)
        body = memoryview(name + b"\0")
        return operations.answer(dataclasses.replace(request, op=Op.LOOKUP, body=body))
    if request.op in _TO_NAMES_AT:
        [number] = fields("<Q", request.body)
        _, name = protocol.names(request.body, _TO_NAMES_AT[Op(request.op)], 2)
        tree = operations.tree
        try:
            node, _ = tree.look_up(tree.node(number), name)
        except FileNotFoundError:
            raise error from None
        tree.nodes.forget(node.number, 1)
    return b""
