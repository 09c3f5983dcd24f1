"""Starts a call's command (proa_guest.call), in a namespace where the host's folders are at their own paths.

Nothing else of the guest can be written there: what went into its root would be lost, and the user would
look for it on the host.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import sys
import termios

# linux/sched.h, linux/mount.h
CLONE_NEWNS = 0x20000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND = 1, 2, 4, 32, 4096
MS_REC, MS_PRIVATE = 16384, 1 << 18
TEMPORARY = "/tmp"
# What the command itself needs of the guest: no folder of the host's takes their place.
_TOP = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr")
_MIXED = ("/", "/var", "/var/lib", "/var/log", "/var/cache")  # and what is in these may be either's


def main() -> None:
    """Become the command that the file named by the first argument describes."""
    with open(sys.argv[1], encoding="utf-8") as file:  # noqa: PTH123
        spec = json.load(file)
    notes = [spec["note"]] if spec["note"] else []
    _terminal(spec["terminal"])
    try:
        notes += _show(spec)
        for note in notes:
            sys.stderr.write(f"proa: {note}\n")
        sys.stderr.flush()
        os.execve(spec["argv"][0], spec["argv"], spec["environ"])
    except OSError as error:
        sys.stderr.write(f"proa: {spec['argv'][0]} cannot be run in the machine: {error}\n")
        sys.exit(126)


def _terminal(number: int | None) -> None:
    """Make it the controlling one, for the keys that are signals."""
    if number is not None:
        fcntl.ioctl(number, termios.TIOCSCTTY, 0)


def places(folders: list[list[str]], cwd: str) -> list[tuple[str, str]]:
    """What is mounted where, outer folders first, of (source in the guest, path on the host)."""
    found = {}
    for source, target in folders:
        if any(target == top or target.startswith(top + "/") for top in _TOP):
            continue
        if target not in _MIXED:
            found[target] = source
        elif cwd not in _MIXED and (cwd + "/").startswith(target.rstrip("/") + "/"):
            # A share that holds the guest's own folders as well: of it, what the user is in.
            found.setdefault(cwd, source.rstrip("/") + cwd[len(target.rstrip("/")) :])
    return [(found[target], target) for target in sorted(found)]


def _show(spec: dict[str, object]) -> list[str]:
    """Mount all and go to the user's folder; what could not be. Raises OSError."""
    cwd, empty = str(spec["cwd"]), str(spec["empty"])
    folders = spec["folders"]
    assert isinstance(folders, list)
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "a namespace cannot be made")
    _mount(library, "", "/", flags=MS_REC | MS_PRIVATE)
    notes, mounted = [], []
    for source, target in places(folders, cwd):
        try:
            os.makedirs(target, exist_ok=True)  # noqa: PTH103
            _mount(library, source, target, flags=MS_BIND)
        except OSError as error:
            notes.append(f"{target} cannot be seen from the machine: {os.strerror(error.errno or 0)}")
        else:
            mounted.append(target)
    if TEMPORARY not in mounted:
        _mount(library, "tmpfs", TEMPORARY, "tmpfs", MS_NOSUID | MS_NODEV)
    _mount(library, "tmpfs", empty, "tmpfs", MS_RDONLY)
    _mount(library, "/", "/", flags=MS_BIND | MS_REMOUNT | MS_RDONLY)
    try:
        os.chdir(cwd or empty)
    except OSError as error:
        notes.append(f"{cwd} cannot be seen from the machine: {os.strerror(error.errno or 0)}")
        os.chdir(empty)
    return notes


def _mount(library: ctypes.CDLL, source: str, target: str, kind: str = "none", flags: int = 0) -> None:
    if library.mount(source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), None):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {target}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
