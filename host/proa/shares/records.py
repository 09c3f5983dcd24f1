"""What the guest's kernel counts on, as a list of events: written down as it happens, for the next server.

Names and other bytes are Latin-1 text here. An event that is read twice changes nothing the second time.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Began(msgspec.Struct, frozen=True, array_like=True, tag="proa-shares"):
    """The first of all: what follows is of this format, and of a server that ended well or did not (yet)."""

    format: int
    ended: bool
    next_node: int
    next_handle: int


class Known(msgspec.Struct, frozen=True, array_like=True, tag="known"):
    """The guest knows the file or folder by this number; `folder` is where it was found, if not 0."""

    number: int
    identity: tuple[int, int, int]
    root: str | None
    above: str
    is_top: bool
    folder: int = 0
    name: str = ""
    lookups: int | None = None  # None: more than none, but not counted here
    told: tuple[int, int, int] | None = None
    own: tuple[int, int, int] | None = None


class Placed(msgspec.Struct, frozen=True, array_like=True, tag="placed"):
    number: int
    folder: int
    name: str


class Left(msgspec.Struct, frozen=True, array_like=True, tag="left"):
    number: int
    folder: int
    name: str


class Dropped(msgspec.Struct, frozen=True, array_like=True, tag="dropped"):
    number: int


class Opened(msgspec.Struct, frozen=True, array_like=True, tag="opened"):
    number: int
    node: int
    writable: bool | None  # None: a folder


class Closed(msgspec.Struct, frozen=True, array_like=True, tag="closed"):
    number: int


class Owned(msgspec.Struct, frozen=True, array_like=True, tag="owned"):
    device: int
    inode: int
    uid: int
    gid: int
    bits: int


class Disowned(msgspec.Struct, frozen=True, array_like=True, tag="disowned"):
    device: int
    inode: int


class Begun(msgspec.Struct, frozen=True, array_like=True, tag="begun"):
    """A request is being carried out that must not be carried out twice."""

    unique: int


class Answered(msgspec.Struct, frozen=True, array_like=True, tag="answered"):
    unique: int
    error: int
    body: str


class Unsettled(msgspec.Struct, frozen=True, array_like=True, tag="unsettled"):
    """What the guest may not have been told: of the folder's name, or of the node itself without one."""

    folder: int
    name: str


class Agreed(msgspec.Struct, frozen=True, array_like=True, tag="agreed"):
    """With the guest's kernel, as its mount was made."""

    opens_no_folders: bool
    asks_for_locks: bool


class Locked(msgspec.Struct, frozen=True, array_like=True, tag="locked"):
    """All that an owner has locked of a file, by now: start, end, kind and process of each range."""

    node: int
    owner: int
    by_flock: bool
    number: int  # of the descriptor, where it is left to the next server
    held: list[tuple[int, int, int, int]]


Record = (
    Began
    | Known
    | Placed
    | Left
    | Dropped
    | Opened
    | Closed
    | Owned
    | Disowned
    | Begun
    | Answered
    | Unsettled
    | Agreed
    | Locked
)
Note = Callable[[Record], None]


def text(value: bytes) -> str:
    return value.decode("latin-1")


def data(value: str) -> bytes:
    return value.encode("latin-1")
