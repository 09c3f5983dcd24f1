"""Paths of the host's files in every form that a Docker client sends, and where the guest has them. Pure.

All shared files are below one mount in the guest: `/home/me/x` is `/run/proa/host/home/me/x` there, and
`C:\\Users\\x` is `/run/proa/host/c/Users/x`. Nothing here looks at a disk: links are the caller's matter.
"""

from __future__ import annotations

import enum
import re
import sys
import unicodedata
from collections.abc import Iterable

GUEST_ROOT = "/run/proa/host"

# Below these Docker Desktop has a drive: in its own virtual machine, in WSL, and on its older versions.
_DRIVES_BELOW = (("run", "desktop", "mnt", "host"), ("host_mnt",), ("mnt",), ())
_DRIVE = re.compile(r"[A-Za-z]")
_WITH_DRIVE = re.compile(r"([A-Za-z]):(/.*|)", re.DOTALL)
_UNC = re.compile(r"//(?![A-Za-z](/|$))")
_NOT_IN_NAMES = re.compile(r'[<>:"|?*\x00-\x1f]')
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE | re.DOTALL)


class System(enum.StrEnum):
    """Whose forms of paths are read."""

    LINUX = "linux"
    MACOS = "darwin"
    WINDOWS = "win32"

    @property
    def folds(self) -> bool:
        """Whether its file systems take `A` and `a` for one name, as a rule."""
        return self is not System.LINUX


class BadPath(ValueError):
    """This names no file of the host's."""


def this_system() -> System:
    return System(sys.platform) if sys.platform in ("darwin", "win32") else System.LINUX


def normal(path: str, system: System) -> str:
    """The one form of a path: whole, without `.`, `..` and doubled slashes. Raises BadPath."""
    if "\0" in path:
        raise BadPath("it has a NUL in it")
    if system is System.WINDOWS:
        drive, parts = _windows(path)
        return f"{drive.upper()}:\\" + "\\".join(parts)
    if not path.startswith("/"):
        raise BadPath("it is no whole path, from the root on")
    parts = _resolved(path.split("/"))
    if system is System.MACOS and parts[:1] == ["host_mnt"]:
        parts = parts[1:]  # what Docker Desktop shows for the host's root
    return "/" + "/".join(parts)


def to_guest(path: str, system: System) -> str:
    """Where the guest has the host's file. Raises BadPath."""
    whole = normal(path, system)
    if system is System.WINDOWS:
        return "/".join([GUEST_ROOT, whole[0].lower(), *whole[3:].split("\\")]).rstrip("/")
    return GUEST_ROOT + whole if whole != "/" else GUEST_ROOT


def from_guest(path: str, system: System) -> str | None:
    """The host's name of a file that the guest has below GUEST_ROOT; None for any other."""
    if path != GUEST_ROOT and not path.startswith(GUEST_ROOT + "/"):
        return None
    rest = path[len(GUEST_ROOT) :]
    if system is not System.WINDOWS:
        return rest or "/"
    drive, *parts = rest.split("/")[1:] or [""]
    return f"{drive.upper()}:\\" + "\\".join(parts) if _DRIVE.fullmatch(drive) else None


def components(path: str, system: System, *, fold: bool) -> tuple[str, ...]:
    """A path's names, root or drive first, so that they can be compared one by one. Raises BadPath."""
    whole = normal(path, system)
    names = (whole[:2], *whole[3:].split("\\")) if system is System.WINDOWS else tuple(whole.split("/"))
    kept = (names[0], *(name for name in names[1:] if name))
    return tuple(map(folded, kept)) if fold else kept


def folded(name: str) -> str:
    """Names that any of the systems takes for one become one; a few more do as well, which does no harm."""
    # HFS+ passes over what is not seen, such as a zero-width joiner in the middle of a name.
    seen = "".join(char for char in name if unicodedata.category(char) != "Cf")
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", seen).casefold())


def folded_name(name: bytes) -> bytes:
    """The same of a name as the guest has it."""
    return folded(name.decode(errors="surrogateescape")).encode(errors="surrogatepass")


def _resolved(names: Iterable[str]) -> list[str]:
    """As the engine cleans a path: by its text, and `..` of the root is the root."""
    found: list[str] = []
    for name in names:
        if name == "..":
            del found[-1:]
        elif name not in ("", "."):
            found.append(name)
    return found


def _windows(path: str) -> tuple[str, list[str]]:
    text = path.replace("\\", "/")
    if _UNC.match(text):
        raise BadPath("it is on the network or a device, and only folders of drives can be shared")
    if match := _WITH_DRIVE.fullmatch(text):
        return match[1], _resolved(map(_windows_name, match[2].split("/")))
    if not text.startswith("/"):
        raise BadPath("it is no whole path, from the drive on")
    parts = _resolved(map(_windows_name, text.split("/")))
    for folder in _DRIVES_BELOW:
        size = len(folder)
        if tuple(parts[:size]) == folder and parts[size:] and _DRIVE.fullmatch(parts[size]):
            return parts[size], parts[size + 1 :]
    raise BadPath("it names no drive")


def _windows_name(name: str) -> str:
    """A name as Windows opens it: dots and spaces at its end are not there."""
    if name in ("", ".", ".."):
        return name
    kept = name.rstrip(". ")
    if not kept or _NOT_IN_NAMES.search(kept) or _DEVICE.fullmatch(kept):
        raise BadPath(f"{name!r} is no name of a file")
    return kept
