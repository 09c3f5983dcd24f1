"""Landlock(7): a process gives up all files but some, for good and for its threads to come. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Iterable

from proa.system.beneath import Descriptor

assert sys.platform == "linux"

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # system calls; their numbers are the same on every processor
_VERSION = 1  # flag of landlock_create_ruleset(2)
_BENEATH = 1  # LANDLOCK_RULE_PATH_BENEATH
_NO_NEW_PRIVILEGES = 38  # linux/prctl.h
_MOVES_SINCE = 2  # the first version with which files can be moved from folder to folder
# linux/landlock.h: rights to files by the version that brought them, the lowest bits first.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_TCP = {4: 0b11}  # to listen and to connect
_SCOPES = {6: 0b11}  # abstract sockets and processes outside


def confine(reads: Iterable[Descriptor], writes: Iterable[Descriptor]) -> bool:
    """Leave the calling thread only what lies in these folders, for reading or for all but to execute.

    No TCP, abstract socket or foreign process is left either, where the kernel can refuse it. What is open
    already stays so. False where the kernel has no Landlock that will do. Raises OSError.
    """
    with contextlib.suppress(OSError):  # other C libraries have no use for it
        ctypes.CDLL("libgcc_s.so.1")  # glibc loads it when the first thread ends, and aborts where it cannot
    library = ctypes.CDLL(None, use_errno=True)
    version = library.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    if version < _MOVES_SINCE:
        return False
    handled, data = _handled(version)
    rules = library.syscall(_CREATE, data, ctypes.c_size_t(len(data)), ctypes.c_uint32(0))
    if rules < 0:
        raise _last_error("landlock_create_ruleset")
    try:
        for folders, rights in ((reads, _READ_FILE | _READ_DIR), (writes, handled & ~_EXECUTE)):
            for folder in folders:
                rule = struct.pack("=Qi", rights, folder.number)
                if library.syscall(_ADD, rules, _BENEATH, rule, ctypes.c_uint32(0)):
                    raise _last_error("landlock_add_rule")
        if library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or library.syscall(_RESTRICT, rules, 0):
            raise _last_error("landlock_restrict_self")
    finally:
        os.close(rules)
    return True


def _handled(version: int) -> tuple[int, bytes]:
    """The rights to files that are refused unless a rule gives them, and struct landlock_ruleset_attr."""
    files, tcp, scopes = (
        [value for since, value in table.items() if since <= version]
        for table in (_FILE_RIGHTS, _TCP, _SCOPES)
    )
    handled = (1 << files[-1]) - 1
    words = [handled, *tcp, *scopes]
    return handled, struct.pack(f"={len(words)}Q", *words)


def _last_error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
