"""FUSE frames, pure: a request's bytes in, a reply's bytes out.

Layouts and numbers are those of Linux' include/uapi/linux/fuse.h, version 7.31 to 7.40; everything is
little-endian. A frame begins with its own length, so that a stream of frames needs no other framing.
"""

from __future__ import annotations

import enum
import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

MAJOR, MINOR, LEAST_MINOR = 7, 40, 31
MAX_WRITE = 1 << 20  # bytes of data in one request
MAX_PAGES = MAX_WRITE >> 12
MAX_FRAME = MAX_WRITE + (64 << 10)  # a whole request with its headers and names
ROOT = 1  # the node that a mount begins with
MAX_NAME = 255  # bytes, as Linux' own file systems

IN_HEADER = struct.Struct("<IIQQIIIHH")
OUT_HEADER = struct.Struct("<IiQ")
INVAL_INODE_OUT = struct.Struct("<Qqq")
INVAL_ENTRY_OUT = struct.Struct("<Q2I")
REPEAT_OUT = struct.Struct("<3Q3H2x")
ANTICIPATED_OUT = struct.Struct("<3Q3I")
NEW, CONTENT, LISTING = 1, 2, 3  # what is anticipated of it
# In a handle's number: that it is closed may be told a moment late, together with others (Op.RELEASED).
CLOSED_LATE = 1 << 62
INIT_IN = struct.Struct("<4I")
INIT_OUT = struct.Struct("<4I2H2I2H2I24x")
ATTR = struct.Struct("<6Q10I")
ENTRY_OUT = struct.Struct("<4Q2I")
_VALIDITIES, _VALIDITIES_AT = struct.Struct("<2Q"), 16  # of the name and the attributes, in ENTRY_OUT
ATTR_OUT = struct.Struct("<Q2I")
OPEN_OUT = struct.Struct("<QIi")
STATFS_OUT = struct.Struct("<5Q3I28x")
DIRENT = struct.Struct("<2Q2I")

_SECOND, _MOST = 1_000_000_000, (1 << 64) - 1  # in nanoseconds; and of 64 bits
FOREVER = 10 * 365 * 24 * 3600  # seconds: until it is told otherwise
# Linux' numbers of open(2)'s flags; the last one's on x86 and on ARM.
ACCESS_MODE, EXCLUSIVE, TRUNCATE, APPEND, DIRECT = 3, 0o200, 0o1000, 0o2000, 0o40000 | 0o200000
EXPIRE_ONLY = 1  # flag of an INVAL_ENTRY (7.38): look again, but keep what hangs on the name

# The highest bit of a request's number says that it is sent again after a cut (FUSE_UNIQUE_RESEND).
RESENT = 1 << 63


class Op(enum.IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50
    # Of the relay's own, not the kernel's: see guest/proa_guest/share.py.
    HELLO = 0x50520001  # it can carry notices; the process that repeats changes
    TOLD = 0x50520002  # so many more notices have reached the kernel
    REPEATED = 0x50520003  # a change was repeated
    RELEASED = 0x50520004  # handles that were kept, or may be closed late, are closed
    WATCHED = 0x50520005  # the nodes that somebody in the guest watches


_GIVES_ENTRY = frozenset((Op.LOOKUP, Op.SYMLINK, Op.MKNOD, Op.MKDIR, Op.LINK, Op.CREATE))


class Notice(enum.IntEnum):
    """What the server tells without being asked; those of linux/fuse.h, and the relay's own."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    REPEAT = 0x5001
    ANTICIPATED = 0x5002
    LOOK = 0x5003


class InitFlag(enum.IntFlag):
    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    FLOCK_LOCKS = 1 << 10
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    CACHE_SYMLINKS = 1 << 23
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    NO_OPENDIR_SUPPORT = 1 << 24
    HANDLE_KILLPRIV_V2 = 1 << 28
    INIT_EXT = 1 << 30
    HAS_RESEND = 1 << 39


# What is asked of a kernel that offers it. Never the write-back cache: a host's append would stay unseen.
WANTED = (
    InitFlag.ASYNC_READ
    | InitFlag.BIG_WRITES
    | InitFlag.AUTO_INVAL_DATA
    | InitFlag.DO_READDIRPLUS
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.ASYNC_DIO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.CACHE_SYMLINKS
    | InitFlag.ABORT_ERROR
    | InitFlag.MAX_PAGES
    | InitFlag.NO_OPENDIR_SUPPORT
    | InitFlag.HANDLE_KILLPRIV_V2
    | InitFlag.INIT_EXT
    | InitFlag.HAS_RESEND
)


LOCKS = InitFlag.POSIX_LOCKS | InitFlag.FLOCK_LOCKS


class SetAttr(enum.IntFlag):
    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    KILL_SUIDGID = 1 << 11


WRITE_CACHE, WRITE_KILL_SUIDGID = 1, 4  # flags of a WRITE
OPEN_KILL_SUIDGID = 1  # flag of an OPEN or CREATE
FOPEN_KEEP_CACHE, FOPEN_CACHE_DIR = 2, 8

# Linux' numbers of errors, for hosts that number them otherwise (asm-generic/errno*.h).
_LINUX = {
    "EPERM": 1, "ENOENT": 2, "EINTR": 4, "EIO": 5, "ENXIO": 6, "E2BIG": 7, "EBADF": 9, "EAGAIN": 11,
    "ENOMEM": 12, "EACCES": 13, "EFAULT": 14, "EBUSY": 16, "EEXIST": 17, "EXDEV": 18, "ENODEV": 19,
    "ENOTDIR": 20, "EISDIR": 21, "EINVAL": 22, "ENFILE": 23, "EMFILE": 24, "ENOTTY": 25, "ETXTBSY": 26,
    "EFBIG": 27, "ENOSPC": 28, "ESPIPE": 29, "EROFS": 30, "EMLINK": 31, "EPIPE": 32, "ERANGE": 34,
    "EDEADLK": 35, "ENAMETOOLONG": 36, "ENOLCK": 37, "ENOSYS": 38, "ENOTEMPTY": 39, "ELOOP": 40,
    "ENODATA": 61, "ENOATTR": 61, "EOVERFLOW": 75, "EOPNOTSUPP": 95, "ENOTSUP": 95, "ETIMEDOUT": 110,
    "ESTALE": 116, "EDQUOT": 122,
}  # fmt: skip


class FrameError(Exception):
    """The frame is not one that a kernel would send: whoever sent it is no kernel."""


class Refused(Exception):
    """A request is answered with an error. `number` is Linux' one."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.number = _LINUX[name]


def linux_errno(number: int | None) -> int:
    """The guest's number for an error of this host; EIO for what has none."""
    name = errno.errorcode.get(number or 0, "")
    return _LINUX.get(name.removeprefix("WSA"), _LINUX["EIO"])  # as Windows calls those of sockets


@dataclass(frozen=True, slots=True)
class Request:
    op: int
    unique: int
    node: int
    uid: int
    gid: int
    pid: int
    body: memoryview


def read_request(frame: memoryview) -> Request:
    """Raises FrameError."""
    if len(frame) < IN_HEADER.size:
        raise FrameError(f"a frame of {len(frame)} bytes")
    length, op, unique, node, uid, gid, pid, extensions, _ = IN_HEADER.unpack_from(frame)
    end = length - 8 * extensions
    if length != len(frame) or end < IN_HEADER.size:
        raise FrameError(f"a frame of {len(frame)} bytes says {length}")
    return Request(op, unique, node, uid, gid, pid, frame[IN_HEADER.size : end])


def frame_length(start: memoryview) -> int:
    """The length of the frame that begins with these four bytes. Raises FrameError."""
    length = int.from_bytes(start[:4], "little")
    if not IN_HEADER.size <= length <= MAX_FRAME:
        raise FrameError(f"a frame that says to have {length} bytes")
    return length


def reply(unique: int, body: bytes = b"") -> bytes:
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), 0, unique) + body


def failure(unique: int, number: int) -> bytes:
    return OUT_HEADER.pack(OUT_HEADER.size, -number, unique)


def fields(layout: str, body: memoryview) -> tuple[int, ...]:
    """Numbers at the start of a body. Raises FrameError where it is too short."""
    size = struct.calcsize(layout)
    if len(body) < size:
        raise FrameError(f"a body of {len(body)} bytes where {size} belong")
    return struct.unpack_from(layout, body)


def names(body: memoryview, offset: int, count: int) -> list[bytes]:
    """`count` texts that end with NUL each. Raises FrameError."""
    parts = bytes(body[offset:]).split(b"\0", count)
    if len(parts) != count + 1:
        raise FrameError("a name does not end")
    return parts[:count]


def checked_name(name: bytes, most: int = MAX_NAME) -> bytes:
    """One component of a path, and nothing that leads elsewhere. Raises FrameError, Refused."""
    if not name or b"/" in name or name in (b".", b".."):
        raise FrameError(f"a name that no kernel sends: {name[:40]!r}")
    if len(name) > most:
        raise Refused("ENAMETOOLONG")
    return name


@dataclass(frozen=True, slots=True)
class Init:
    """What was agreed; `reply` is the body of the answer."""

    minor: int
    flags: InitFlag
    reply: bytes


def answer_init(body: memoryview, *, locks: bool = False) -> Init:
    """With `locks` the kernel asks for each. Raises FrameError, and Refused for a kernel that is too old."""
    major, minor, readahead, flags = INIT_IN.unpack_from(body) if len(body) >= INIT_IN.size else (0, 0, 0, 0)
    if major != MAJOR or minor < LEAST_MINOR:
        raise Refused("EOPNOTSUPP")
    if flags & InitFlag.INIT_EXT and len(body) >= INIT_IN.size + 4:
        flags |= int.from_bytes(body[INIT_IN.size : INIT_IN.size + 4], "little") << 32
    agreed = InitFlag(flags & (WANTED | LOCKS if locks else WANTED))
    answer = INIT_OUT.pack(
        MAJOR,
        min(minor, MINOR),
        readahead,
        agreed & 0xFFFFFFFF,
        64,  # requests in the background
        48,  # from here on the kernel slows down those who cause them
        MAX_WRITE,
        1,  # nanoseconds: the grain of times
        MAX_PAGES,
        0,
        agreed >> 32,
        0,
    )
    return Init(min(minor, MINOR), agreed, answer)


class Attributes(NamedTuple):
    """What a file shows. Times are in nanoseconds, `blocks` in units of 512 bytes."""

    inode: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    mode: int
    links: int
    uid: int
    gid: int
    device: int
    block_size: int

    def pack(self) -> bytes:
        inode, size, blocks, atime, mtime, ctime, mode, links, uid, gid, device, block_size = self
        # Times before 1970 are negative seconds in the field of an unsigned one.
        return ATTR.pack(
            inode & _MOST, size, blocks,
            atime // _SECOND & _MOST, mtime // _SECOND & _MOST, ctime // _SECOND & _MOST,
            atime % _SECOND, mtime % _SECOND, ctime % _SECOND,
            mode, links, uid, gid, device, block_size, 0,
        )  # fmt: skip


def entry_out(node: int, attributes: Attributes, name_valid: int, valid: int) -> bytes:
    """A name that leads to a node; how many seconds the name and the attributes are trusted."""
    return ENTRY_OUT.pack(node, 0, name_valid, valid, 0, 0) + attributes.pack()


def no_entry_out(valid: int) -> bytes:
    """There is nothing of that name, for `valid` seconds."""
    return ENTRY_OUT.pack(0, 0, valid, 0, 0, 0) + bytes(ATTR.size)


def attr_out(attributes: Attributes, valid: int) -> bytes:
    return ATTR_OUT.pack(valid, 0, 0) + attributes.pack()


def untrusted(op: int, body: bytes | bytearray | memoryview) -> bytes:
    """A reply to `op` of which the guest is to keep nothing: it may not be true any more."""
    out = bytearray(body)
    if op in _GIVES_ENTRY and len(out) >= ENTRY_OUT.size:
        _VALIDITIES.pack_into(out, _VALIDITIES_AT, 0, 0)
    elif op in (Op.GETATTR, Op.SETATTR) and len(out) >= ATTR_OUT.size:
        out[:8] = bytes(8)
    elif op == Op.READDIRPLUS:
        at = 0
        while at < len(out):
            _VALIDITIES.pack_into(out, at + _VALIDITIES_AT, 0, 0)
            at += ENTRY_OUT.size + ATTR.size
            length = DIRENT.unpack_from(out, at)[2]
            at += DIRENT.size + (length + 7 & ~7)
    return bytes(out)


def dirent(inode: int, offset: int, name: bytes, mode: int) -> bytes:
    """One entry of a listing; `offset` is where the next one begins."""
    entry = DIRENT.pack(inode & 0xFFFFFFFFFFFFFFFF, offset, len(name), mode >> 12 & 15) + name
    return entry + bytes(-len(entry) % 8)


def inval_inode(node: int, *, content: bool) -> bytes:
    """Attributes are to be asked for again, and with `content` what was read of it."""
    return INVAL_INODE_OUT.pack(node, 0 if content else -1, 0)


def inval_entry(folder: int, name: bytes, flags: int = 0) -> bytes:
    return INVAL_ENTRY_OUT.pack(folder, len(name), flags) + name + b"\0"


def repeat(number: int, folder: int, name: bytes, to: tuple[int, bytes], steps: bytes) -> bytes:
    """What the relay is to do in the mount; its answer is REPEATED with the same number."""
    head = REPEAT_OUT.pack(number, folder, to[0], len(name), len(to[1]), len(steps))
    return head + name + to[1] + steps


def look(number: int) -> bytes:
    """The relay is to look who watches; its answer is WATCHED with the same number."""
    return number.to_bytes(8, "little")


def watched(body: memoryview) -> tuple[int, frozenset[int]]:
    """That answer: the number, and nodes. Raises FrameError."""
    number, *nodes = fields(f"<Q{max(0, len(body) // 8 - 1)}Q", body)
    return number, frozenset(nodes)


def out_header(unique: int, number: int, length: int) -> bytes:
    """Of a reply, `number` its error negated, or of a notice: `unique` 0, `number` its code."""
    return OUT_HEADER.pack(OUT_HEADER.size + length, number, unique)


def anticipated(
    unique: int,
    folder: int,
    attributes: bytes = b"",
    end: int = 0,
    entries: Sequence[tuple[bytes, bytes]] = (),
    *,
    what: int = 0,
) -> bytes:
    """The notice of what the guest will ask for next.

    The folder's `attr_out`, or nothing; behind which place of its listing nothing is left, or 0; names with
    their `entry_out`. In what is NEW nothing is but what the guest puts there; of a file that was opened for
    reading, its CONTENT or nothing stands for `attributes`, and for `end` its handle, which may be kept; and
    of a folder its LISTING as a READDIRPLUS would be answered.
    It goes with the reply to the request `unique`. The relay reads it: guest/proa_guest/anticipated.py.
    """
    parts = [ANTICIPATED_OUT.pack(unique, folder, end, len(entries), len(attributes), what), attributes]
    for name, entry in entries:
        parts += (entry, len(name).to_bytes(2, "little"), name)
    return out_header(0, Notice.ANTICIPATED, sum(map(len, parts))) + b"".join(parts)
