"""Locks that die with their holder: flock on POSIX, a locked byte on Windows.

A child that inherits the descriptor of a POSIX lock keeps it held: so a machine's
lock tells whether its hypervisor lives, whatever became of the agent.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path

from proa.system.files import explain

POLL = 0.02  # seconds


class FileLock:
    """A held lock; `fd` may be handed to a child process."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    @classmethod
    def try_acquire(cls, path: Path) -> FileLock | None:
        """The lock, or None while somebody else holds it. Raises ProaError where the file cannot be made."""
        fd = _open(path)
        if _lock(fd):
            return cls(path, fd)
        os.close(fd)
        return None

    @classmethod
    def acquire(cls, path: Path, patience: float) -> FileLock | None:
        """The lock, or None where it is still held after `patience` seconds. Raises ProaError.

        Whoever looks whether it is held (`is_held`) has it for an instant: that is no reason to give up.
        """
        deadline = time.monotonic() + patience
        while (lock := cls.try_acquire(path)) is None and time.monotonic() < deadline:
            time.sleep(POLL)
        return lock

    @classmethod
    def wait_for(cls, path: Path) -> FileLock:
        """The lock, however long another process holds it. Raises ProaError."""
        fd = _open(path)
        while not _lock(fd, wait=True):
            time.sleep(POLL)
        return cls(path, fd)

    def write(self, text: str) -> None:
        """Say who holds it, for people and for `proa`."""
        try:
            os.ftruncate(self.fd, 0)
            os.lseek(self.fd, 0, os.SEEK_SET)
            os.write(self.fd, text.encode())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            # On a full disk the lock is held all the same, by somebody who cannot say so.

    def release(self) -> None:
        """Close our descriptor; where a child inherited it, the child goes on holding the lock."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def is_held(path: Path) -> bool:
    """True while any process holds the lock at `path`."""
    try:
        # For reading: looking must work where the disk cannot be written.
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise explain(error, f"look at the lock {path}") from error
    try:
        return not _lock(fd)
    finally:
        os.close(fd)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError as error:
        raise explain(error, f"open the lock {path}") from error


def _lock(fd: int, *, wait: bool = False) -> bool:
    """Whether it is locked now; with `wait` this returns when it is, where the system can wait for it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            # A byte far behind the content, so that the file stays readable while it is locked.
            os.lseek(fd, 1 << 30, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
            os.lseek(fd, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
