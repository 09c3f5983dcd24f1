"""What the host has told of its folders before it was asked, which is answered here, without a round trip.

An answer is given once, for then the kernel keeps it itself. It must be as good as the host's own, so it is
dropped as soon as it might not be: when the host says that something changed, and when the kernel asks for
anything that may change it, or shows that it knows the file by another way. What is dropped unused is
reported to the host as forgotten, for the host has counted it as known.
"""

from __future__ import annotations

import stat
import struct
import time
from collections import OrderedDict
from collections.abc import Callable

from proa_guest.fuse import HEAD, RELEASED, REQUEST, own_request, reply
from proa_guest.kept_open import KeptOpen

# The request that it goes with, folder, end of its listing or 0, count of names, length of attributes, and:
PUSHED = struct.Struct("<3Q3I")
# Nothing is in it but what the guest puts there; it is a file that was opened for reading, the second number
# is its handle, which may be kept, and instead of attributes there is all of its content or nothing; instead
# of a folder's attributes there is how it reads from its beginning.
NEW, CONTENT, LISTING = 1, 2, 3
NAME = struct.Struct("<H")
ANSWER = 128  # bytes: fuse_entry_out of linux/fuse.h
NUMBER = struct.Struct("<Q")  # of a node, or a handle
BATCH = struct.Struct("<II")
FORGOTTEN = struct.Struct("<QQ")
RESENT = 1 << 63
MOST = 16384  # names that are kept
MOST_ATTRIBUTES = 4096
MOST_LISTINGS = 8 << 20  # bytes
LONGEST = 255  # bytes of a name: there can be no longer one, which is another error
MOST_NEW = 256  # new folders that are told apart
MOST_BYTES = 8 << 20  # of files' contents
NOTHING = struct.pack("<4Q", 0, 0, 10 * 365 * 24 * 3600, 0).ljust(ANSWER, b"\0")  # and that for good
RETURNED = 128  # nodes in one report; fewer wait for the next

# linux/fuse.h
LOOKUP, FORGET, GETATTR, SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK = (
    1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 13,
)  # fmt: skip
OPEN, READ, WRITE, RELEASE, FALLOCATE, COPY_FILE_RANGE = 14, 15, 16, 18, 43, 47
SETXATTR, REMOVEXATTR, READDIR, CREATE, BATCH_FORGET, READDIRPLUS, RENAME2 = 21, 24, 28, 35, 42, 44, 45
INVAL_INODE, INVAL_ENTRY = 2, 3
# Where the name begins in the body of what changes a folder; RENAME's come after another folder's number.
_NAME_AT = {SYMLINK: 0, MKNOD: 16, MKDIR: 8, UNLINK: 0, RMDIR: 0, LINK: 8, CREATE: 16}
_RENAMES = {RENAME: 8, RENAME2: 16}
_WRITES = frozenset((WRITE, FALLOCATE, COPY_FILE_RANGE))
_CHANGES = frozenset((SETATTR, SETXATTR, REMOVEXATTR, *_WRITES, *_NAME_AT, *_RENAMES))
# They change how a file looks, links and times, whose number they do not give; a rename also a folder.
_CHANGES_ANY = frozenset((UNLINK, LINK, *_RENAMES))
_ANY = 0  # no file has that number
MODE = struct.Struct("<76xI")  # in attributes, fuse_attr_out of linux/fuse.h
READ_IN = struct.Struct("<QQI")
RELEASE_IN = struct.Struct("<QII")
ENDS_A_LOCK = 2  # flag of a RELEASE: there is one by flock(2)
OPEN_OUT = struct.Struct("<QII")
KEEP_CACHE = 2
# Flags of an open that is not only to read, fcntl.h of Linux, x86 and ARM: to write, to truncate, direct.
NOT_READ = 0o3 | 0o1000 | 0o40000 | 0o200000
TRUNCATES = 0o1000


class _Bounded:
    """What is kept of files or folders, by their numbers: the newest, so many bytes of it in all."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, number: int) -> bytes | None:
        return self._kept.get(number)

    def keep(self, number: int, data: bytes) -> None:
        self.drop(number)
        self._kept[number] = data
        self._bytes += len(data)
        while self._bytes > self._most:
            self.drop(next(iter(self._kept)))

    def drop(self, number: int) -> None:
        self._bytes -= len(self._kept.pop(number, b""))

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0


class Anticipated:
    """Not safe for several threads: an answer must reach the kernel before anything later from the host."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.open = KeptOpen()
        self._folders: OrderedDict[int, dict[bytes, bytes]] = OrderedDict()  # name to answer
        self._places: dict[int, tuple[int, bytes]] = {}  # node to where it is in `_folders`
        self._attributes: dict[int, bytes] = {}  # of folders
        self._of_files: dict[int, bytes] = {}  # that were just opened
        self._ends: dict[int, int] = {}  # behind which place of a folder's listing nothing is left
        self._new: OrderedDict[int, set[bytes]] = OrderedDict()  # folders, and all that may be in them
        self._contents = _Bounded(MOST_BYTES)  # of files that were just opened
        self._listings = _Bounded(MOST_LISTINGS)  # of folders, whole
        self._changing: dict[int, tuple[int, ...]] = {}  # requests under way, and what they change
        self._unused: list[int] = []
        self._report_all = False  # of those, before anything else
        self._answers: dict[int, Callable[[int, memoryview], bytes | None]] = {
            LOOKUP: self._looked_up,
            GETATTR: self._attributes_of,
            READDIR: self._listed,
            READDIRPLUS: self._listed_plus,
            OPEN: self._opened,
            READ: self._read,
            RELEASE: self._closed,
        }

    def __len__(self) -> int:
        return len(self._places)

    # -- from the kernel ----------------------------------------------------------------------

    def answer(self, request: memoryview, never_for: int = 0) -> bytes | None:
        """The whole reply, where it is known; else the host is to be asked, as always for that process."""
        _, op, unique, node, _, _, pid, _, _ = REQUEST.unpack_from(request)
        known = self._answers.get(op)
        if known is not None and pid != never_for and not unique & RESENT:
            found = known(node, request)
            if found is not None:
                return reply(unique, found)
        if op == BATCH_FORGET:
            if self._places or self._new or self._listings or self.open:
                for number, _ in FORGOTTEN.iter_unpack(_whole(request[REQUEST.size + BATCH.size :])):
                    self._forget(number)
        else:
            self._follow(op, unique, node, request)
        return None

    def _follow(self, op: int, unique: int, node: int, request: memoryview) -> None:
        """What the host is asked makes of what is known."""
        if op == FORGET:
            self._forget(node)
        elif op == RELEASE:
            self._contents.drop(node)
            self.open.drop(node)
        elif op != LOOKUP and node in self._places:
            self._drop(node)
        if op in _CHANGES or (op == OPEN and struct.unpack_from("<I", request, REQUEST.size)[0] & TRUNCATES):
            self._changes(op, unique, node, request)

    def _forget(self, node: int) -> None:
        """The kernel lets go of it, and so of all in it: the host, which does too, would not follow that."""
        self._drop(node)
        for answer in tuple(self._folders.get(node, {}).values()):
            self._drop(*NUMBER.unpack_from(answer))
            self._report_all = True
        self._drop_folder(node)
        self._new.pop(node, None)
        self.open.drop(node)

    def _looked_up(self, node: int, request: memoryview) -> bytes | None:
        [name] = _names(request, 0, 1)
        return NOTHING if self._cannot_be(node, name) else self._named(node, name)

    def _attributes_of(self, node: int, request: memoryview) -> bytes | None:
        return self._attributes.pop(node, None) or self._of_files.pop(node, None)

    def _listed(self, node: int, request: memoryview) -> bytes | None:
        if self._ends and self._ends.get(node) == NUMBER.unpack_from(request, REQUEST.size + 8)[0]:
            del self._ends[node]
            return b""
        return None

    def _listed_plus(self, node: int, request: memoryview) -> bytes | None:
        listing = self._listings.get(node)
        if listing is not None:
            _, offset, size = READ_IN.unpack_from(request, REQUEST.size)
            if offset == 0 and len(listing) <= size:
                self._listings.drop(node)
                return listing
        return self._listed(node, request)

    def _read(self, node: int, request: memoryview) -> bytes | None:
        content = self._contents.get(node)
        if content is None:
            return None
        _, offset, size = READ_IN.unpack_from(request, REQUEST.size)
        return content[offset : offset + size]

    def _opened(self, node: int, request: memoryview) -> bytes | None:
        [flags] = struct.unpack_from("<I", request, REQUEST.size)
        handle = None if flags & NOT_READ else self.open.open(node)
        return None if handle is None else OPEN_OUT.pack(handle, KEEP_CACHE, 0)

    def _closed(self, node: int, request: memoryview) -> bytes | None:
        handle, _, flags = RELEASE_IN.unpack_from(request, REQUEST.size)
        if flags & ENDS_A_LOCK:
            return None
        if self.open.close_late(handle):
            self.open.drop(node)
        elif not self.open.close(node, handle, self._clock()):
            return None
        self._contents.drop(node)
        return b""

    def _cannot_be(self, folder: int, name: bytes) -> bool:
        names = self._new.get(folder)
        return names is not None and name not in names and len(name) <= LONGEST

    def _named(self, folder: int, name: bytes) -> bytes | None:
        """The answer, which is given only once."""
        found = self._folders.get(folder, {}).get(name)
        if found is not None:
            self._take_out(*NUMBER.unpack_from(found))
        return found

    def not_wanted(self, request: memoryview, answer: bytes) -> None:
        """Nobody waited any more for what `answer` gave."""
        _, op, _, node, *_ = REQUEST.unpack_from(request)
        [number] = NUMBER.unpack_from(answer.ljust(HEAD.size + NUMBER.size, b"\0"), HEAD.size)
        if op == LOOKUP and number:
            self._unused.append(number)
        elif op == OPEN:
            self.open.close(node, number, self._clock())

    def _changes(self, op: int, unique: int, node: int, request: memoryview) -> None:
        """What is known of what it changes is not to be trusted, nor is anything told before it is done."""
        folders: tuple[int, ...] = (node,)
        if op in _NAME_AT:
            [name] = _names(request, _NAME_AT[op], 1)
            self._drop_name(node, name)
            self._may_have(node, name)
        elif op in _RENAMES:
            [other] = NUMBER.unpack_from(request, REQUEST.size)
            folders = (node, other)
            old, new = _names(request, _RENAMES[op], 2)
            self._drop_name(node, old)
            self._drop_name(other, new)
            self._may_have(node, old)  # where the two are exchanged
            self._may_have(other, new)
        elif op == COPY_FILE_RANGE:
            folders = NUMBER.unpack_from(request, REQUEST.size + 16)  # the file that it goes to
        if op in _CHANGES_ANY:
            folders = (*folders, _ANY)
            self._of_files.clear()
            if op in _RENAMES:
                self._attributes.clear()
        self._changing[unique & ~RESENT] = folders
        for folder in folders:
            self._drop_folder(folder)
            self._contents.drop(folder)

    def _may_have(self, folder: int, name: bytes) -> None:
        names = self._new.get(folder)
        if names is not None:
            names.add(name)
            if len(names) > MOST:
                del self._new[folder]

    # -- from the host ------------------------------------------------------------------------

    def replied(self, unique: int) -> None:
        """The host has answered this request itself."""
        if self._changing:
            self._changing.pop(unique & ~RESENT, None)

    def not_true(self, notice: bytes) -> None:
        """The host tells the kernel that something has changed."""
        _, code, _ = HEAD.unpack_from(notice)
        [node] = NUMBER.unpack_from(notice, HEAD.size)
        self._new.pop(node, None)
        if code == INVAL_INODE:
            self._contents.drop(node)
            self.open.drop(node)
            self._drop(node)
            self._drop_folder(node)
        elif code == INVAL_ENTRY:
            self._drop_name(node, bytes(notice[HEAD.size + 16 : -1]))

    def take(self, body: bytes) -> None:
        """Keep what comes along with the answer to a request."""
        unique, folder, end, count, length, what = PUSHED.unpack_from(body)
        start = PUSHED.size + length
        own = unique & ~RESENT
        others = [changed for number, changed in self._changing.items() if number != own]
        unsure = any(folder in changed for changed in others)
        if what == CONTENT:
            if length and not unsure:
                self._contents.keep(folder, body[PUSHED.size : start])
            self.open.may_keep(folder, end)
            return
        if what == LISTING:
            if not unsure:
                self._listings.keep(folder, body[PUSHED.size : start])
            return
        if length and not unsure and not any(_ANY in changed for changed in others):
            self._keep_attributes(folder, body[PUSHED.size : start], end)
        if what == NEW and not unsure:
            self._new[folder] = set()
            if len(self._new) > MOST_NEW:
                self._new.popitem(last=False)
        for _ in range(count):
            answer = body[start : start + ANSWER]
            [size] = NAME.unpack_from(body, start + ANSWER)
            name = body[start + ANSWER + NAME.size :][:size]
            start += ANSWER + NAME.size + size
            self._keep_name(folder, name, answer, unsure=unsure)
        self._bound()

    def _keep_attributes(self, node: int, attributes: bytes, end: int) -> None:
        kept = self._attributes if stat.S_ISDIR(*MODE.unpack_from(attributes)) else self._of_files
        if len(kept) >= MOST_ATTRIBUTES:
            kept.clear()
        kept[node] = attributes
        if end:
            self._ends[node] = end
        if len(self._ends) > MOST_ATTRIBUTES:
            self._ends.clear()

    def _keep_name(self, folder: int, name: bytes, answer: bytes, *, unsure: bool) -> None:
        [node] = NUMBER.unpack_from(answer)
        if unsure or node in self._places:
            self._unused.append(node)
            return
        self._drop_name(folder, name)
        self._folders.setdefault(folder, {})[name] = answer
        self._places[node] = (folder, name)

    def _bound(self) -> None:
        """Drop the oldest folders where it is too much."""
        while len(self._places) > MOST:
            for answer in tuple(next(iter(self._folders.values())).values()):
                self._drop(*NUMBER.unpack_from(answer))

    # -- what is not true any more ------------------------------------------------------------

    def clear(self) -> None:
        """Nothing is told of changes any more."""
        self._unused += self._places
        self._folders.clear()
        self._places.clear()
        self._attributes.clear()
        self._of_files.clear()
        self._ends.clear()
        self._new.clear()
        self._listings.clear()
        self._contents.clear()
        self.open.drop_all()
        self._changing.clear()

    def reports(self) -> bytes:
        """Requests that tell the host of what is not needed any more; they go before any other."""
        told = self.forgotten(all_of_them=self._report_all)
        while self._report_all and self._unused:
            told += self.forgotten(all_of_them=True)
        self._report_all = False
        return told + self.closed()

    def closed(self, *, all_of_them: bool = False) -> bytes:
        """The one that tells of handles that are kept no more; empty while there are none, or few."""
        gone = self.open.gone(all_of_them=all_of_them)
        return own_request(RELEASED, body=b"".join(map(NUMBER.pack, gone))) if gone else b""

    def forgotten(self, *, all_of_them: bool = False) -> bytes:
        """A request that tells the host of what was dropped unused; empty while it is not worth one."""
        if not self._unused or (len(self._unused) < RETURNED and not all_of_them):
            return b""
        nodes, self._unused = self._unused[:RETURNED], self._unused[RETURNED:]
        body = BATCH.pack(len(nodes), 0) + b"".join(FORGOTTEN.pack(node, 1) for node in nodes)
        return own_request(BATCH_FORGET, body=body)

    def _drop_folder(self, folder: int) -> None:
        self._attributes.pop(folder, None)
        self._of_files.pop(folder, None)
        self._ends.pop(folder, None)
        self._listings.drop(folder)

    def _take_out(self, node: int) -> bool:
        """Whether its answer was there."""
        place = self._places.pop(node, None)
        if place is None:
            return False
        names = self._folders[place[0]]
        del names[place[1]]
        if not names:
            del self._folders[place[0]]
        return True

    def _drop(self, node: int) -> None:
        """And all in it, which nobody can get to without it: told to the host before it."""
        found, rest = [], [node]
        while rest:
            one = rest.pop()
            if self._take_out(one):
                found.append(one)
                rest += [NUMBER.unpack_from(answer)[0] for answer in self._folders.get(one, {}).values()]
                self._drop_folder(one)
        self._unused += reversed(found)

    def _drop_name(self, folder: int, name: bytes) -> None:
        found = self._folders.get(folder, {}).get(name)
        if found is not None:
            self._drop(*NUMBER.unpack_from(found))


def _names(request: memoryview, offset: int, count: int) -> list[bytes]:
    return bytes(request[REQUEST.size + offset :]).split(b"\0", count)[:count]


def _whole(body: memoryview) -> memoryview:
    return body[: len(body) // FORGOTTEN.size * FORGOTTEN.size]
