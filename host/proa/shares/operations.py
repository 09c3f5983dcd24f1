"""What each request of the guest's kernel does to the host's files."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

from proa.shares import protocol
from proa.shares.anticipation import Ahead, Anticipation
from proa.shares.attributes import Attributes, look
from proa.shares.coherence import Coherence
from proa.shares.extended import Extended
from proa.shares.handles import Body, Handles
from proa.shares.listings import Listings
from proa.shares.locks import Locks
from proa.shares.nodes import Handle, Node, Place
from proa.shares.notices import Outbox
from proa.shares.owners import Owner, bits_on_host
from proa.shares.protocol import (
    ACCESS_MODE,
    APPEND,
    EXCLUSIVE,
    TRUNCATE,
    Op,
    Refused,
    Request,
    checked_name,
    fields,
    names,
)
from proa.shares.repeats import Repeats
from proa.shares.tree import Located, Tree, identity
from proa.system import beneath
from proa.system.beneath import Descriptor, Status
from proa.system.watching import Kind

# Kinds of files that a guest may make with mknod. No devices: they would be the host's.
_MAKES = (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK)


class Operations:
    """Answers requests from a tree. Safe for several threads."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.outbox = Outbox()
        self.coherence = Coherence(tree, self.outbox)
        self.own = self.coherence.own
        self.repeats = Repeats(tree, self.outbox, self._entry)
        self.handles = Handles(tree)
        self.locks = Locks(tree, self.handles, self.own)
        self.anticipation = Anticipation(tree, self.outbox, self._valid, self.handles)
        self._attributes = Attributes(tree, self.handles, self.own, self._valid)
        listings = Listings(tree, self.handles, self._entry)
        extended = Extended(tree, self.own)
        self._answers: dict[int, Callable[[Request], Body | None]] = {
            Op.LOOKUP: self._lookup,
            Op.FORGET: self._forget,
            Op.BATCH_FORGET: self._batch_forget,
            Op.GETATTR: self._attributes.get,
            Op.SETATTR: self._attributes.set,
            Op.READLINK: self._readlink,
            Op.SYMLINK: self._symlink,
            Op.MKNOD: self._mknod,
            Op.MKDIR: self._mkdir,
            Op.UNLINK: self._unlink,
            Op.RMDIR: self._rmdir,
            Op.RENAME: self._rename,
            Op.RENAME2: self._rename2,
            Op.LINK: self._link,
            Op.OPEN: self._open,
            Op.CREATE: self._create,
            Op.READ: self._read,
            Op.WRITE: self._write,
            Op.RELEASE: self._release,
            Op.GETLK: self.locks.get,
            Op.SETLK: self.locks.set,
            Op.SETLKW: self.locks.set,
            Op.FLUSH: self.locks.flush,
            Op.RELEASEDIR: self.handles.release,
            Op.FSYNC: self._fsync,
            Op.FSYNCDIR: self._fsyncdir,
            Op.SYNCFS: lambda request: b"",
            Op.OPENDIR: listings.open,
            Op.READDIR: listings.read,
            Op.READDIRPLUS: listings.read_plus,
            Op.STATFS: self._statfs,
            Op.SETXATTR: extended.set,
            Op.GETXATTR: extended.get,
            Op.LISTXATTR: extended.list,
            Op.REMOVEXATTR: extended.remove,
            Op.FALLOCATE: self._fallocate,
            Op.LSEEK: self._lseek,
            Op.COPY_FILE_RANGE: self._copy_file_range,
            Op.INTERRUPT: self.locks.interrupt,
        }

    def answer(self, request: Request) -> Body | None:
        """The body of the reply; None for what is not answered. Raises OSError, Refused, FrameError."""
        if request.pid == self.repeats.pid and request.pid:
            return self.repeats.answer(request, self._answer)
        return self._answer(request)

    def _answer(self, request: Request) -> Body | None:
        work = self._answers.get(request.op)
        if work is None:
            raise Refused("ENOTTY" if request.op == Op.IOCTL else "ENOSYS")
        return work(request)

    def ahead(self, request: Request, body: Body) -> Sequence[Ahead]:
        """What is to be told along with the answer to a request that ended well."""
        return self.anticipation.after(request, body) if request.pid != self.repeats.pid else ()

    def news(self, request: Request) -> Callable[[], bool]:
        """Whether the guest is being told, since then, of changes of what the request is about, or in it."""
        node = self.tree.nodes.get(request.node)
        if node is None:
            return lambda: False
        before = node.news
        return lambda: node.news is not before

    def hear_changes(self, pid: int) -> None:
        """The guest can be told of changes; the process `pid` there repeats them."""
        self.repeats.pid = pid
        self.tree.watches.heard = True
        self.coherence.start()

    # -- names --------------------------------------------------------------------------------

    def _valid(self, node: Node, attributes: protocol.Attributes) -> int:
        """For how many seconds the guest may trust the attributes: those of what is watched for good."""
        watches = self.tree.watches
        told = watches.heard if node.root is None else watches.trusted(node, attributes.links)
        return protocol.FOREVER if told else 0

    def _entry(self, node: Node, attributes: protocol.Attributes, parent: Node, name: bytes) -> bytes:
        if node.is_made_up:
            return protocol.entry_out(node.number, attributes, 0, 0)
        # What lies above all shares changes with them; where a share begins is the host's to change.
        above = node.root is None and self.tree.watches.heard
        told = above or (parent.watch and not self.outbox.expects(parent, name))
        name_valid = protocol.FOREVER if told else 0
        return protocol.entry_out(node.number, attributes, name_valid, self._valid(node, attributes))

    def _lookup(self, request: Request) -> Body:
        [name] = names(request.body, 0, 1)
        parent = self.tree.node(request.node)
        try:
            node, attributes = self.tree.look_up(parent, checked_name(name, self.tree.most_name(parent)))
        except FileNotFoundError:
            told = parent.watch and not self.tree.watches.of_any_case(parent)
            if not told or self.outbox.expects(parent, name):
                raise  # the guest asks each time
            return protocol.no_entry_out(protocol.FOREVER)
        return self._entry(node, attributes, parent, name)

    def _forget(self, request: Request) -> None:
        [count] = fields("<Q", request.body)
        self.tree.nodes.forget(request.node, count)

    def _batch_forget(self, request: Request) -> None:
        [count] = fields("<I", request.body)
        if len(request.body) < 8 + 16 * count:
            raise protocol.FrameError("a list of forgotten nodes ends too early")
        for number, times in struct.iter_unpack("<QQ", request.body[8 : 8 + 16 * count]):
            self.tree.nodes.forget(number, times, unused=not request.unique)  # the relay's own has no number

    def _parent(self, number: int, name: bytes) -> tuple[Node, Descriptor]:
        """A folder in which `name` is to be changed."""
        parent = self.tree.node(number)
        self.tree.guard(parent, checked_name(name))
        self.tree.writable(parent)
        return parent, self.tree.watched_folder(parent)

    def _making(
        self,
        request: Request,
        place: tuple[Node, Descriptor, bytes],
        mode: int,
        make: Callable[[], object],
    ) -> Body:
        """Make a file that the guest asked for, and tell of it."""
        parent, folder, name = place
        with self.own.names((parent, name, Kind.CREATED)):
            make()
            node, attributes = self._made(request, parent, folder, name, mode)
        return self._entry(node, attributes, parent, name)

    def _made(
        self, request: Request, parent: Node, folder: Descriptor, name: bytes, mode: int
    ) -> tuple[Node, protocol.Attributes]:
        """Give what was just made the owner that the guest's process has."""
        found = beneath.status(folder, name)
        before = self.tree.nodes.known(identity(found))
        if before is not None:  # of a file that has gone, which is yet to be told
            self.tree.nodes.ended(before)
        self.tree.owners.forget(*identity(found)[:2])  # the host has removed the one that had its number
        above = self.tree.attributes_of(parent)
        gid, bits = request.gid, mode & 0o7777
        if above.mode & stat.S_ISGID:
            gid = above.gid
            if stat.S_ISDIR(found.st_mode):
                bits |= stat.S_ISGID
        if stat.S_ISLNK(found.st_mode):
            bits = 0o777
        if (request.uid, gid, bits) != (found.st_uid, found.st_gid, found.st_mode & 0o7777):
            self.tree.owners.write(folder, name, found, Owner(request.uid, gid, bits))
            found = beneath.status(folder, name)
        node, attributes = self.tree.take_in(parent, name, folder, found)
        self.own.made(node)
        return node, attributes

    def _symlink(self, request: Request) -> Body:
        name, target = names(request.body, 0, 2)
        parent, folder = self._parent(request.node, name)
        place = parent, folder, name
        return self._making(request, place, 0o777, lambda: beneath.make_link(folder, name, target))

    def _mknod(self, request: Request) -> Body:
        [mode] = fields("<I12x", request.body)
        [name] = names(request.body, 16, 1)
        parent, folder = self._parent(request.node, name)
        kind = stat.S_IFMT(mode)
        if kind not in _MAKES:
            raise Refused("EPERM")
        bits = kind | bits_on_host(mode, folder=False)
        place = parent, folder, name
        return self._making(request, place, mode, lambda: beneath.make_node(folder, name, bits))

    def _mkdir(self, request: Request) -> Body:
        [mode] = fields("<I4x", request.body)
        [name] = names(request.body, 8, 1)
        parent, folder = self._parent(request.node, name)
        bits = bits_on_host(mode, folder=True)
        place = parent, folder, name
        return self._making(request, place, mode, lambda: beneath.make_folder(folder, name, bits))

    def _unlink(self, request: Request) -> Body:
        return self._removed(request, beneath.remove_file)

    def _rmdir(self, request: Request) -> Body:
        return self._removed(request, beneath.remove_folder)

    def _removed(self, request: Request, remove: Callable[[Descriptor, bytes], None]) -> Body:
        [name] = names(request.body, 0, 1)
        parent, folder = self._parent(request.node, name)
        found = beneath.status(folder, name)
        with self.own.names((parent, name, Kind.DELETED)), self._losing_a_name(found):
            self._without_open_folders(lambda: remove(folder, name))
            self._gone(parent, name, found)
        return b""

    def _losing_a_name(self, found: Status | None) -> AbstractContextManager[None]:
        """That is a change of the file as well, which those see who know it by another name."""
        node = self.tree.nodes.known(identity(found)) if found is not None else None
        if found is None or node is None or (found.st_nlink <= 1 and not node.watch):
            return nullcontext()
        return self._changing_named(node)

    def _changing_named(self, node: Node) -> AbstractContextManager[None]:
        return self.own.content(node, lambda: self.tree.locate(node).found)

    def _gone(self, parent: Node, name: bytes, found: Status) -> None:
        node = self.tree.nodes.known(identity(found))
        last = stat.S_ISDIR(found.st_mode) or found.st_nlink <= 1
        if last:
            self.tree.owners.forget(*identity(found)[:2])
        if node is not None:
            node.changed()
            self.tree.nodes.left(node, (parent, name))
            if last:
                self.tree.nodes.ended(node)

    def _rename(self, request: Request) -> Body:
        [to_parent] = fields("<Q", request.body)
        return self._renamed(request, to_parent, 0, names(request.body, 8, 2))

    def _rename2(self, request: Request) -> Body:
        to_parent, flags = fields("<QI4x", request.body)
        if flags & ~(beneath.RENAME_NOREPLACE | beneath.RENAME_EXCHANGE):
            raise Refused("EINVAL")
        return self._renamed(request, to_parent, flags, names(request.body, 16, 2))

    def _renamed(self, request: Request, to_number: int, flags: int, both: list[bytes]) -> Body:
        name, to_name = both
        parent, folder = self._parent(request.node, name)
        to_parent, to_folder = self._parent(to_number, to_name)
        found = beneath.status(folder, name)
        try:
            replaced = beneath.status(to_folder, to_name)
        except FileNotFoundError:
            replaced = None
        old, new = (parent, name), (to_parent, to_name)
        if replaced is not None and identity(replaced) == identity(found):
            beneath.rename(folder, name, to_folder, to_name, flags)
            return b""  # two names of one file: rename(2) leaves both
        changes = [(*old, Kind.MOVED_FROM), (*new, Kind.MOVED_TO)]
        if flags & beneath.RENAME_EXCHANGE:
            changes += [(*new, Kind.MOVED_FROM), (*old, Kind.MOVED_TO)]
        with ExitStack() as stack:
            stack.enter_context(self.own.names(*changes))
            # Another name is a change of the file, too.
            moved = (found, replaced) if flags & beneath.RENAME_EXCHANGE else (found,)
            for node in map(self.tree.nodes.known, map(identity, filter(None, moved))):
                if node is not None:
                    stack.enter_context(self._changing_named(node))
            if not flags & beneath.RENAME_EXCHANGE:
                stack.enter_context(self._losing_a_name(replaced))
            self._without_open_folders(lambda: beneath.rename(folder, name, to_folder, to_name, flags))
            self._follow_rename(old, new, found, replaced, exchange=bool(flags & beneath.RENAME_EXCHANGE))
        self._check_moved(new, found)
        return b""

    def _check_moved(self, place: Place, found: Status) -> None:
        """Another file may have moved there: one that the host gave the old name to at the last moment."""
        folder, name = place
        try:
            now = beneath.status(self.tree.folder(folder), name)
        except (OSError, Refused):
            return  # that it has gone is told
        if identity(now) != identity(found):
            self.coherence.name_missed(folder, name)

    def _without_open_folders(self, change: Callable[[], None]) -> None:
        """Change a name, also where a folder that is only kept open here is in the way of that."""
        try:
            change()
        except OSError as error:
            if error.errno not in beneath.OPEN_FOLDERS:
                raise
            self.tree.nodes.let_go_all()
            change()

    def _follow_rename(
        self,
        old: Place,
        new: Place,
        found: Status,
        replaced: Status | None,
        *,
        exchange: bool,
    ) -> None:
        nodes = self.tree.nodes
        node = nodes.known(identity(found))
        if replaced is not None and exchange:
            other = nodes.known(identity(replaced))
            if other is not None:
                nodes.moved(other, new, old)
        elif replaced is not None:
            self._gone(*new, replaced)
        if node is not None:
            nodes.moved(node, old, new)

    def _link(self, request: Request) -> Body:
        [number] = fields("<Q", request.body)
        [name] = names(request.body, 8, 1)
        node = self.tree.node(number)
        at = self.tree.locate(node)
        parent, folder = self._parent(request.node, name)
        self.tree.writable(node)
        with (
            self.own.names((parent, name, Kind.CREATED)),
            self._changing_named(node),
        ):
            beneath.add_name(at.parent, at.name, folder, name)
            node, attributes = self.tree.take_in(parent, name, folder, beneath.status(folder, name))
        return self._entry(node, attributes, parent, name)

    # -- attributes ---------------------------------------------------------------------------

    def _readlink(self, request: Request) -> Body:
        return self.tree.link_target(self.tree.node(request.node))

    def _statfs(self, request: Request) -> Body:
        node = self.tree.node(request.node)
        if node.root is None:
            return protocol.STATFS_OUT.pack(0, 0, 0, 0, 0, 4096, protocol.MAX_NAME, 4096)
        # A folder may be where a disk of its own begins.
        at = self.tree.folder(node) if node.is_folder else self.tree.locate(node).parent
        found = beneath.space(at.number)
        return protocol.STATFS_OUT.pack(
            found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
            found.f_bsize, found.f_namemax, found.f_frsize,
        )  # fmt: skip

    # -- open files ---------------------------------------------------------------------------

    def _open(self, request: Request) -> Body:
        flags, how = fields("<II", request.body)
        node = self.tree.node(request.node)
        if node.root is None or node.identity[2] != stat.S_IFREG >> 12:
            raise Refused("EISDIR" if node.is_folder else "ENXIO")
        writes = flags & ACCESS_MODE != os.O_RDONLY
        if writes or flags & TRUNCATE:
            self.tree.writable(node)
            self.own.opens(node)
        at = self.tree.locate(node)
        access = flags & ACCESS_MODE | (os.O_TRUNC if flags & TRUNCATE else 0)
        if not flags & TRUNCATE:
            file = self._opened(node, at, access)
        else:
            with self.own.content(node, lambda: look(at)):
                file = self._opened(node, at, access)
                if how & protocol.OPEN_KILL_SUIDGID:
                    self._attributes.kill_privileges(node, at)
        number = self.handles.hold(Handle(node, file, writes))
        return protocol.OPEN_OUT.pack(number, protocol.FOPEN_KEEP_CACHE, 0)

    def _opened(self, node: Node, at: Located, access: int) -> Descriptor:
        file = beneath.open_file(at.parent, at.name, access)
        if identity(beneath.fstat(file.number)) != node.identity:
            raise Refused("ESTALE")  # another one was put in its place this moment
        return file

    def _create(self, request: Request) -> Body:
        flags, mode = fields("<2I8x", request.body)
        [name] = names(request.body, 16, 1)
        parent, folder = self._parent(request.node, name)
        access = flags & ACCESS_MODE | (os.O_TRUNC if flags & TRUNCATE else 0)
        try:
            with self.own.names((parent, name, Kind.CREATED)):
                file = beneath.open_file(
                    folder, name, access | os.O_CREAT | os.O_EXCL, bits_on_host(mode, folder=False)
                )
                node, attributes = self._made(request, parent, folder, name, mode)
        except FileExistsError:
            # The host made it since the guest looked.
            if flags & EXCLUSIVE:
                raise
            node, _ = self.tree.look_up(parent, name)
            with self.own.content(node, lambda: beneath.status(folder, name)):
                file = beneath.open_file(folder, name, access)
                attributes = self.tree.attributes_of(node)
        if identity(beneath.fstat(file.number)) != node.identity:
            raise Refused("ESTALE")
        writes = flags & ACCESS_MODE != os.O_RDONLY
        number = self.handles.hold(Handle(node, file, writes))
        return self._entry(node, attributes, parent, name) + protocol.OPEN_OUT.pack(
            number, protocol.FOPEN_KEEP_CACHE, 0
        )

    def _release(self, request: Request) -> Body:
        self.locks.released(request)
        return self._release_writer(request) if beneath.CLOSING_SETS_TIMES else self.handles.release(request)

    def _release_writer(self, request: Request) -> Body:
        [number] = fields("<Q", request.body)
        handle = self.handles.held.get(number)
        if not isinstance(handle, Handle) or not handle.writable:
            return self.handles.release(request)
        node = handle.node
        del handle  # it is closed with the last who holds it
        with self._changing_named(node):
            body = self.handles.release(request)
        self.outbox.inode(node, content=False)
        return body

    def _read(self, request: Request) -> Body:
        number, offset, size = fields("<QQI20x", request.body)
        return beneath.pread(self.handles.file(number).file.number, min(size, protocol.MAX_WRITE), offset)

    def _write(self, request: Request) -> Body:
        number, offset, size, how, _, flags = fields("<QQIIQI4x", request.body)
        data = request.body[40:]
        if len(data) != size:
            raise protocol.FrameError("data of another size than it says")
        handle = self.handles.file(number)
        if not handle.writable:
            raise Refused("EBADF")
        self.tree.writable(handle.node)
        with self._changing(handle):
            if how & protocol.WRITE_KILL_SUIDGID:
                at = self._attributes.named_or_open(handle.node)
                self._attributes.kill_privileges(handle.node, at)
            if flags & APPEND and not how & protocol.WRITE_CACHE:
                written = beneath.append(handle.file, data)
            else:
                written = beneath.pwrite(handle.file.number, data, offset)
        return struct.pack("<I4x", written)

    def _changing(self, handle: Handle) -> AbstractContextManager[None]:
        return self.own.content(handle.node, lambda: beneath.fstat(handle.file.number))

    def _fsync(self, request: Request) -> Body:
        number, flags = fields("<QI4x", request.body)
        beneath.sync(self.handles.file(number).file, data_only=bool(flags & 1))
        return b""

    def _fsyncdir(self, request: Request) -> Body:
        node = self.tree.node(request.node)
        if node.root is not None:
            beneath.sync(beneath.open_file(self.tree.folder(node), b".", os.O_RDONLY), data_only=False)
        return b""

    def _fallocate(self, request: Request) -> Body:
        number, offset, length, mode = fields("<QQQI4x", request.body)
        handle = self.handles.file(number)
        if not handle.writable:
            raise Refused("EBADF")
        self.tree.writable(handle.node)
        with self._changing(handle):
            beneath.allocate(handle.file, mode, offset, length)
        return b""

    def _lseek(self, request: Request) -> Body:
        number, offset, whence = fields("<QQI4x", request.body)
        if whence not in (3, 4):  # linux/fs.h: SEEK_DATA, SEEK_HOLE
            raise Refused("EINVAL")
        return struct.pack("<Q", beneath.seek(self.handles.file(number).file, offset, hole=whence == 4))

    def _copy_file_range(self, request: Request) -> Body:
        number, start, _, to_number, offset, length, _ = fields("<7Q", request.body)
        source, target = self.handles.file(number), self.handles.file(to_number)
        if not target.writable:
            raise Refused("EBADF")
        self.tree.writable(target.node)
        length = min(length, 1 << 30)
        with self._changing(target):
            copied = beneath.copy(source.file, start, target.file, offset, length)
        return struct.pack("<I4x", copied)
