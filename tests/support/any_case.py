"""A folder in which `A` and `a` are one file, as on macOS and Windows: there is no such disk to be had here.

It is a mount of a share server that takes each name for the one that is there in any case; what is shared
from it is a folder of such a system to everybody else. But for one thing: Linux itself leaves a file as it is
that is to be renamed to itself, so nothing can change only the case of a name.
"""

from __future__ import annotations

import dataclasses
import os
import sys

from proa.shares import __main__ as process
from proa.shares.nodes import Node
from proa.shares.operations import Operations
from proa.shares.protocol import Op, Request, names
from proa.system import beneath

SERVER = ("-m", "tests.support.any_case")
# Where the name begins in the body of a request.
_ONE = {
    Op.LOOKUP: 0, Op.UNLINK: 0, Op.RMDIR: 0, Op.SYMLINK: 0, Op.MKDIR: 8, Op.LINK: 8,
    Op.MKNOD: 16, Op.CREATE: 16,
}  # fmt: skip
_TWO = {Op.RENAME: 8, Op.RENAME2: 16}


class AnyCase(Operations):
    """Tells of no changes, so that the kernel asks each time by which name it ever was."""

    def hear_changes(self, pid: int) -> None:
        pass

    def answer(self, request: Request) -> bytes | memoryview | None:
        return super().answer(self._with_names_that_are_there(request))

    def _with_names_that_are_there(self, request: Request) -> Request:
        parent = self.tree.node(request.node)
        if request.op in _ONE and parent.root is not None:
            start = _ONE[Op(request.op)]
            [name] = names(request.body, start, 1)
            given = bytes(request.body)
            after = given[start + len(name) :]
            return _with(request, given[:start] + self._there(parent, name) + after)
        if request.op in _TWO:
            start = _TWO[Op(request.op)]
            old, new = names(request.body, start, 2)
            target = self.tree.node(int.from_bytes(request.body[:8], "little"))
            old, new = self._there(parent, old), self._there(target, new)
            return _with(request, bytes(request.body[:start]) + old + b"\0" + new + b"\0")
        return request

    def _there(self, parent: Node, name: bytes) -> bytes:
        here = beneath.names_in(self.tree.folder(parent))
        same = [other for other in here if _any_case(other) == _any_case(name)]
        return same[0] if same else name


def _any_case(name: bytes) -> str:
    return os.fsdecode(name).casefold()


def _with(request: Request, body: bytes) -> Request:
    return dataclasses.replace(request, body=memoryview(body))


if __name__ == "__main__":
    process.Operations = AnyCase  # type: ignore[attr-defined]
    sys.exit(process.main(["", sys.argv[1]]))
