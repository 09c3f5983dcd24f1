"""The one door for files on disk: replaced atomically and fsynced, folders private to the user."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

from proa.model.errors import ProaError

MAX_STATE_FILE = 4 << 20  # no state of ours is larger; a larger file is not ours


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable. Raises OSError."""
    if sys.platform == "win32":
        return  # a directory cannot be opened for fsync there; rename is journalled by NTFS
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def explain(error: OSError, doing: str) -> ProaError:
    """A ProaError for what the disk said, with the way out."""
    reasons = {
        errno.ENOSPC: ("disk-full", "free some disk space and try again"),
        errno.EDQUOT: ("disk-full", "your disk quota is used up: free some space and try again"),
        errno.EROFS: (
            "folder-not-writable",
            "the file system is read-only: set PROA_HOME to a writable folder",
        ),
        errno.EACCES: ("folder-not-writable", "set PROA_HOME to a folder that you may write to"),
        errno.EPERM: ("folder-not-writable", "set PROA_HOME to a folder that you may write to"),
        errno.ENOTDIR: ("folder-not-writable", "a file is in the way: set PROA_HOME to another folder"),
    }
    code, hint = reasons.get(error.errno or 0, ("disk-error", "look at the system's log, then try again"))
    return ProaError(code, f"cannot {doing}", why=error.strerror or str(error), hint=hint)


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `data` whole or not at all; durable on return. Raises ProaError `disk-full` …"""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise explain(error, f"write {path}") from error


def read_bytes(path: Path, limit: int = MAX_STATE_FILE) -> bytes:
    """The file's content. Raises FileNotFoundError as it is, and ProaError for the rest."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise explain(error, f"read {path}") from error
    if len(data) > limit:
        raise ProaError("file-too-large", f"cannot read {path}", why=f"it is larger than {limit} bytes")
    return data


def make_private_folder(path: Path) -> Path:
    """Make `path` (0700) or prove that it is the user's own and nobody else's.

    Raises ProaError `folder-not-private` (another user's, a link, open to others) or `folder-not-writable`.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise explain(error, f"make the folder {path}") from error
    if sys.platform == "win32":
        return path  # the profile's own folder carries an ACL of the user alone
    if not stat.S_ISDIR(found.st_mode):
        raise _not_private(path, "it is not a folder")
    if found.st_uid != os.geteuid():
        raise _not_private(path, f"it belongs to the user with id {found.st_uid}")
    if found.st_mode & 0o077:
        try:
            path.chmod(0o700)
        except OSError as error:
            raise explain(error, f"make {path} private") from error
    if not os.access(path, os.W_OK | os.X_OK):
        number = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
        raise explain(OSError(number, os.strerror(number)), f"write to {path}")
    return path


def _not_private(path: Path, why: str) -> ProaError:
    return ProaError(
        "folder-not-private",
        f"{path} cannot be used",
        why=why,
        hint="remove it, or set PROA_HOME to a folder of your own",
    )


def remove_tree(path: Path) -> None:
    """Remove a folder and all below it; a folder that is not there is fine."""
    try:
        import shutil  # every command would wait for it, and hardly one removes a folder

        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise explain(error, f"remove {path}") from error


def tail(path: Path, lines: int, limit: int = 64 << 10) -> tuple[str, ...]:
    """The last `lines` lines (within the last `limit` bytes), empty where the file cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - limit))
            data = file.read(limit)
    except OSError:
        return ()
    text = data.decode("utf-8", "replace").replace("\r", "")
    return tuple([line for line in text.split("\n") if line.strip()][-lines:])
