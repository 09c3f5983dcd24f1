"""What each request of the guest's kernel does to the host's files."""

from __future__ import annotations

import os
import stat
import struct
import sys
import time
from collections.abc import Callable

assert sys.platform != "win32"  # as proa.system.beneath

from proa.shares import protocol
from proa.shares.extended import Extended
from proa.shares.handles import Body, Handles
from proa.shares.listings import Listings
from proa.shares.nodes import Handle, Listing, Node
from proa.shares.owners import Owner, bits_on_host
from proa.shares.protocol import Op, Refused, Request, SetAttr, checked_name, fields, names
from proa.shares.tree import Located, Tree, identity
from proa.system import beneath
from proa.system.beneath import Descriptor

ACCESS_MODE, EXCLUSIVE, TRUNCATE, APPEND = 3, 0o200, 0o1000, 0o2000  # Linux' numbers of open(2)'s flags
# Kinds of files that a guest may make with mknod. No devices: they would be the host's.
_MAKES = (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK)


class Operations:
    """Answers requests from a tree. Safe for several threads."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.valid = 0  # seconds that the guest may trust names and attributes without asking
        self.handles = Handles(tree)
        listings = Listings(tree, self.handles, self._entry)
        attributes = Extended(tree)
        self._answers: dict[int, Callable[[Request], Body | None]] = {
            Op.LOOKUP: self._lookup,
            Op.FORGET: self._forget,
            Op.BATCH_FORGET: self._batch_forget,
            Op.GETATTR: self._getattr,
            Op.SETATTR: self._setattr,
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
            Op.RELEASE: self.handles.release,
            Op.RELEASEDIR: self.handles.release,
            Op.FSYNC: self._fsync,
            Op.FSYNCDIR: self._fsyncdir,
            Op.SYNCFS: lambda request: b"",
            Op.OPENDIR: listings.open,
            Op.READDIR: listings.read,
            Op.READDIRPLUS: listings.read_plus,
            Op.STATFS: self._statfs,
            Op.SETXATTR: attributes.set,
            Op.GETXATTR: attributes.get,
            Op.LISTXATTR: attributes.list,
            Op.REMOVEXATTR: attributes.remove,
            Op.FALLOCATE: self._fallocate,
            Op.LSEEK: self._lseek,
            Op.COPY_FILE_RANGE: self._copy_file_range,
            Op.INTERRUPT: lambda request: None,
        }

    def answer(self, request: Request) -> Body | None:
        """The body of the reply; None for what is not answered. Raises OSError, Refused, FrameError."""
        work = self._answers.get(request.op)
        if work is None:
            raise Refused("ENOTTY" if request.op == Op.IOCTL else "ENOSYS")
        return work(request)

    # -- names --------------------------------------------------------------------------------

    def _entry(self, node: Node, attributes: protocol.Attributes) -> bytes:
        return protocol.entry_out(node.number, attributes, self.valid if node.root else 0)

    def _lookup(self, request: Request) -> Body:
        [name] = names(request.body, 0, 1)
        parent = self.tree.node(request.node)
        return self._entry(*self.tree.look_up(parent, checked_name(name)))

    def _forget(self, request: Request) -> None:
        [count] = fields("<Q", request.body)
        self.tree.nodes.forget(request.node, count)

    def _batch_forget(self, request: Request) -> None:
        [count] = fields("<I", request.body)
        if len(request.body) < 8 + 16 * count:
            raise protocol.FrameError("a list of forgotten nodes ends too early")
        for number, times in struct.iter_unpack("<QQ", request.body[8 : 8 + 16 * count]):
            self.tree.nodes.forget(number, times)

    def _parent(self, number: int, name: bytes) -> tuple[Node, Descriptor]:
        """A folder in which `name` is to be changed."""
        parent = self.tree.node(number)
        self.tree.guard(parent, checked_name(name))
        self.tree.writable(parent)
        return parent, self.tree.folder(parent)

    def _made(
        self, request: Request, parent: Node, folder: Descriptor, name: bytes, mode: int
    ) -> tuple[Node, protocol.Attributes]:
        """Give what was just made the owner that the guest's process has."""
        found = beneath.status(folder, name)
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
        return self.tree.take_in(parent, name, folder, found)

    def _symlink(self, request: Request) -> Body:
        name, target = names(request.body, 0, 2)
        parent, folder = self._parent(request.node, name)
        os.symlink(target, name, dir_fd=folder.number)
        return self._entry(*self._made(request, parent, folder, name, 0o777))

    def _mknod(self, request: Request) -> Body:
        [mode] = fields("<I12x", request.body)
        [name] = names(request.body, 16, 1)
        parent, folder = self._parent(request.node, name)
        kind = stat.S_IFMT(mode)
        if kind not in _MAKES:
            raise Refused("EPERM")
        os.mknod(name, kind | bits_on_host(mode, folder=False), dir_fd=folder.number)
        return self._entry(*self._made(request, parent, folder, name, mode))

    def _mkdir(self, request: Request) -> Body:
        [mode] = fields("<I4x", request.body)
        [name] = names(request.body, 8, 1)
        parent, folder = self._parent(request.node, name)
        os.mkdir(name, bits_on_host(mode, folder=True), dir_fd=folder.number)
        return self._entry(*self._made(request, parent, folder, name, mode))

    def _unlink(self, request: Request) -> Body:
        return self._removed(request, os.unlink)

    def _rmdir(self, request: Request) -> Body:
        return self._removed(request, os.rmdir)

    def _removed(self, request: Request, remove: Callable[..., None]) -> Body:
        [name] = names(request.body, 0, 1)
        parent, folder = self._parent(request.node, name)
        found = beneath.status(folder, name)
        remove(name, dir_fd=folder.number)
        self._gone(parent, name, found)
        return b""

    def _gone(self, parent: Node, name: bytes, found: os.stat_result) -> None:
        node = self.tree.nodes.known(identity(found))
        last = stat.S_ISDIR(found.st_mode) or found.st_nlink <= 1
        if last:
            self.tree.owners.forget(found)
        if node is not None:
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
        nodes = self.tree.nodes
        found = beneath.status(folder, name)
        try:
            replaced = beneath.status(to_folder, to_name)
        except FileNotFoundError:
            replaced = None
        beneath.rename(folder, name, to_folder, to_name, flags)
        old, new = (parent, name), (to_parent, to_name)
        if replaced is not None and identity(replaced) == identity(found) and old != new:
            return b""  # two names of one file: rename(2) leaves both
        if replaced is not None and flags & beneath.RENAME_EXCHANGE:
            other = nodes.known(identity(replaced))
            if other is not None:
                nodes.moved(other, new, old)
        elif replaced is not None:
            self._gone(to_parent, to_name, replaced)
        node = nodes.known(identity(found))
        if node is not None:
            nodes.moved(node, (node, b"") if flags & beneath.RENAME_EXCHANGE else old, new)
            if flags & beneath.RENAME_EXCHANGE:
                nodes.left(node, old)
        return b""

    def _link(self, request: Request) -> Body:
        [number] = fields("<Q", request.body)
        [name] = names(request.body, 8, 1)
        node = self.tree.node(number)
        at = self.tree.locate(node)
        parent, folder = self._parent(request.node, name)
        self.tree.writable(node)
        os.link(at.name, name, src_dir_fd=at.parent.number, dst_dir_fd=folder.number, follow_symlinks=False)
        return self._entry(*self.tree.take_in(parent, name, folder, beneath.status(folder, name)))

    # -- attributes ---------------------------------------------------------------------------

    def _getattr(self, request: Request) -> Body:
        node = self.tree.node(request.node)
        attributes = self.tree.attributes_of(node)
        return protocol.attr_out(attributes, self.valid if node.root else 0)

    def _setattr(self, request: Request) -> Body:
        node = self.tree.node(request.node)
        self.tree.writable(node)
        (valid, handle, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, uid, gid) = fields(
            "<I4xQQQQQQIIII4xII4x", request.body
        )
        flags = SetAttr(valid & 0xFFF)
        at = self._named_or_open(node)
        found = at.found if isinstance(at, Located) else os.fstat(at.number)
        if flags & SetAttr.SIZE:
            held = self.handles.held.get(handle) if flags & SetAttr.FH else None
            # Only of this node: another's share may be one for reading only by now.
            self._truncate(at, held if held is not None and held.node is node else None, size)
        if flags & (SetAttr.MODE | SetAttr.UID | SetAttr.GID | SetAttr.KILL_SUIDGID):
            self._set_owner(node, at, flags, (mode, uid, gid))
        if flags & (SetAttr.ATIME | SetAttr.MTIME):
            now = time.time_ns()
            times = []
            for set_it, set_now, whole, rest, old in (
                (SetAttr.ATIME, SetAttr.ATIME_NOW, atime, atime_ns, found.st_atime_ns),
                (SetAttr.MTIME, SetAttr.MTIME_NOW, mtime, mtime_ns, found.st_mtime_ns),
            ):
                # Times before 1970 are negative.
                seconds = whole - (1 << 64) if whole >> 63 else whole
                given = seconds * 1_000_000_000 + rest if flags & set_it else old
                times.append(now if flags & set_now else given)
            _set_times(at, (times[0], times[1]))
        return protocol.attr_out(self.tree.attributes_of(node), self.valid)

    def _named_or_open(self, node: Node) -> Located | Descriptor:
        """The file by a name, or what the guest has open of one that has none any more."""
        try:
            return self.tree.locate(node)
        except Refused:
            handles = node.open
            if not handles:
                raise
            return handles[0].file

    def _truncate(self, at: Located | Descriptor, handle: Handle | Listing | None, size: int) -> None:
        if isinstance(handle, Handle) and handle.writable:
            os.ftruncate(handle.file.number, size)
        elif isinstance(at, Located):
            file = beneath.open_file(at.parent, at.name, os.O_WRONLY)  # open for as long as it is held
            os.ftruncate(file.number, size)
        else:
            os.ftruncate(at.number, size)

    def _set_owner(
        self, node: Node, at: Located | Descriptor, flags: SetAttr, wanted: tuple[int, int, int]
    ) -> None:
        shown = self.tree.attributes(node, at) if isinstance(at, Located) else self.tree.attributes_of(node)
        bits = wanted[0] & 0o7777 if flags & SetAttr.MODE else shown.mode & 0o7777
        if flags & SetAttr.KILL_SUIDGID or (
            flags & (SetAttr.UID | SetAttr.GID) and not flags & SetAttr.MODE and stat.S_ISREG(shown.mode)
        ):
            bits = without_privileges(bits)
        owner = Owner(
            wanted[1] if flags & SetAttr.UID else shown.uid,
            wanted[2] if flags & SetAttr.GID else shown.gid,
            bits,
        )
        plain = bits_on_host(bits, folder=stat.S_ISDIR(shown.mode))
        if not isinstance(at, Located):
            os.fchmod(at.number, plain)
            found = os.fstat(at.number)  # the last that is known of its owner goes with the file
            node.owner = (found.st_ctime_ns, (owner.uid, owner.gid, owner.bits))
            return
        if not stat.S_ISLNK(at.found.st_mode) and at.found.st_mode & 0o7777 != plain:
            beneath.set_mode(at.parent, at.name, plain)
        self.tree.owners.write(at.parent, at.name, at.found, owner)
        node.owner = None  # where only the table holds it, no time on disk tells

    def _readlink(self, request: Request) -> Body:
        at = self.tree.locate(self.tree.node(request.node))
        return os.fsencode(os.readlink(at.name, dir_fd=at.parent.number))

    def _statfs(self, request: Request) -> Body:
        node = self.tree.node(request.node)
        if node.root is None:
            return protocol.STATFS_OUT.pack(0, 0, 0, 0, 0, 4096, protocol.MAX_NAME, 4096)
        at = self.tree.locate(node)
        found = os.statvfs(at.parent.number)
        return protocol.STATFS_OUT.pack(
            found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
            found.f_bsize, found.f_namemax, found.f_frsize,
        )  # fmt: skip

    # -- open files ---------------------------------------------------------------------------

    def _open(self, request: Request) -> Body:
        flags, how = fields("<II", request.body)
        node = self.tree.node(request.node)
        if node.root is None or node.identity[2] != stat.S_IFREG >> 12:
            raise Refused("EISDIR" if node.identity[2] == stat.S_IFDIR >> 12 else "ENXIO")
        writes = flags & ACCESS_MODE != os.O_RDONLY
        if writes or flags & TRUNCATE:
            self.tree.writable(node)
        at = self.tree.locate(node)
        access = flags & ACCESS_MODE | (os.O_TRUNC if flags & TRUNCATE else 0)
        file = beneath.open_file(at.parent, at.name, access)
        if identity(os.fstat(file.number)) != node.identity:
            raise Refused("ESTALE")  # another one was put in its place this moment
        if how & protocol.OPEN_KILL_SUIDGID:
            self._set_owner(node, at, SetAttr.KILL_SUIDGID, (0, 0, 0))
        number = self.handles.hold(Handle(node, file, writes))
        return protocol.OPEN_OUT.pack(number, protocol.FOPEN_KEEP_CACHE, 0)

    def _create(self, request: Request) -> Body:
        flags, mode = fields("<2I8x", request.body)
        [name] = names(request.body, 16, 1)
        parent, folder = self._parent(request.node, name)
        access = flags & ACCESS_MODE | (os.O_TRUNC if flags & TRUNCATE else 0)
        try:
            file = beneath.open_file(
                folder, name, access | os.O_CREAT | os.O_EXCL, bits_on_host(mode, folder=False)
            )
            node, attributes = self._made(request, parent, folder, name, mode)
        except FileExistsError:
            # The host made it since the guest looked.
            if flags & EXCLUSIVE:
                raise
            file = beneath.open_file(folder, name, access)
            node, attributes = self.tree.look_up(parent, name)
        if identity(os.fstat(file.number)) != node.identity:
            raise Refused("ESTALE")
        writes = flags & ACCESS_MODE != os.O_RDONLY
        number = self.handles.hold(Handle(node, file, writes))
        return self._entry(node, attributes) + protocol.OPEN_OUT.pack(number, protocol.FOPEN_KEEP_CACHE, 0)

    def _read(self, request: Request) -> Body:
        number, offset, size = fields("<QQI20x", request.body)
        return os.pread(self.handles.file(number).file.number, min(size, protocol.MAX_WRITE), offset)

    def _write(self, request: Request) -> Body:
        number, offset, size, how, _, flags = fields("<QQIIQI4x", request.body)
        data = request.body[40:]
        if len(data) != size:
            raise protocol.FrameError("data of another size than it says")
        handle = self.handles.file(number)
        if not handle.writable:
            raise Refused("EBADF")
        self.tree.writable(handle.node)
        if how & protocol.WRITE_KILL_SUIDGID:
            self._set_owner(handle.node, self._named_or_open(handle.node), SetAttr.KILL_SUIDGID, (0, 0, 0))
        if flags & APPEND and not how & protocol.WRITE_CACHE:
            written = beneath.append(handle.file, data)
        else:
            written = os.pwrite(handle.file.number, data, offset)
        return struct.pack("<I4x", written)

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
        beneath.allocate(handle.file, mode, offset, length)
        return b""

    def _lseek(self, request: Request) -> Body:
        number, offset, whence = fields("<QQI4x", request.body)
        if whence not in (3, 4) or not hasattr(os, "SEEK_DATA"):  # linux/fs.h: SEEK_DATA, SEEK_HOLE
            raise Refused("EINVAL")
        way = os.SEEK_DATA if whence == 3 else os.SEEK_HOLE
        return struct.pack("<Q", os.lseek(self.handles.file(number).file.number, offset, way))

    def _copy_file_range(self, request: Request) -> Body:
        number, start, _, to_number, offset, length, _ = fields("<7Q", request.body)
        source, target = self.handles.file(number), self.handles.file(to_number)
        if not target.writable:
            raise Refused("EBADF")
        self.tree.writable(target.node)
        length = min(length, 1 << 30)
        return struct.pack("<I4x", beneath.copy(source.file, start, target.file, offset, length))


def without_privileges(bits: int) -> int:
    """A mode after a write: no set-uid, and no set-gid where the group may execute."""
    return bits & ~(stat.S_ISUID | (stat.S_ISGID if bits & stat.S_IXGRP else 0))


def _set_times(at: Located | Descriptor, times: tuple[int, int]) -> None:
    """Access and change, in nanoseconds."""
    if isinstance(at, Located):
        os.utime(at.name, ns=times, dir_fd=at.parent.number, follow_symlinks=False)
    else:
        os.utime(at.number, ns=times)
