"""Names of files as Windows keeps them and as the guest has them, which are bytes without rules. Pure.

What Windows forbids in a name is kept as a character of Unicode's private area, U+F000 and its own number, as
Cygwin, WSL and others do: so each of these shows the others' names as they were meant. Bytes that are not
UTF-8 are single surrogates, which NTFS takes. A character of that area in a name that the host made is shown
as what it stands for; the guest cannot make one, for it would come back as another name.
"""

from __future__ import annotations

import errno
import os

# Begins the name of what was removed and goes when the last who has it open closes it: nobody is told of it.
REMOVED = ".proa-removed-"
MOST_UNITS = 255  # of UTF-16, in a name on NTFS
_PRIVATE = 0xF000
_FORBIDDEN = {code: _PRIVATE + code for code in (*range(1, 32), *map(ord, '"*:<>?\\|'))}
_MEANT = {kept: code for code, kept in _FORBIDDEN.items()}
_LAST = {code: chr(_PRIVATE + ord(code)) for code in ". "}  # Windows' programs leave these out at the end
_LAST_MEANT = {kept: code for code, kept in _LAST.items()}


def to_windows(name: bytes) -> str:
    """The name of the host's file. Raises OSError: ENAMETOOLONG, and EINVAL for one that cannot be kept."""
    if not name or b"/" in name or b"\0" in name:
        raise _error(errno.EINVAL)
    text = name.decode("utf-8", "surrogateescape").translate(_FORBIDDEN)
    if text[-1] in _LAST:
        text = text[:-1] + _LAST[text[-1]]
    if len(text) > MOST_UNITS or len(encode(text)) > 2 * MOST_UNITS:
        raise _error(errno.ENAMETOOLONG)
    if not name.isascii() and to_guest(text) != name:
        raise _error(errno.EINVAL)
    return text


def to_guest(name: str) -> bytes:
    """What the guest calls the host's file. A name with half a pair in it is shown, but leads to no file."""
    if name.isascii():
        return name.encode("ascii")
    text = name.translate(_MEANT)
    if text[-1:] in _LAST_MEANT:
        text = text[:-1] + _LAST_MEANT[text[-1]]
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return b"".join(map(_encoded, text))


def _encoded(char: str) -> bytes:
    return char.encode("utf-8", "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass")


def path_to_windows(path: bytes) -> str:
    """`C:\\Users\\me` of `/c/Users/me`. Raises OSError as `to_windows`, and ENOENT without a drive."""
    drive, *names = path.split(b"/")[1:] or [b""]
    if path[:1] != b"/" or len(drive) != 1 or not drive.isalpha():
        raise _error(errno.ENOENT)
    return drive.decode("ascii").upper() + ":\\" + "\\".join(map(to_windows, filter(None, names)))


def path_to_guest(path: str) -> bytes:
    """`/c/Users/me` of `C:\\Users\\me`, a whole path on a drive."""
    drive, *names = path.rstrip("\\").split("\\")
    return b"/".join((b"", drive[:1].lower().encode("ascii"), *map(to_guest, filter(None, names))))


def encode(text: str) -> bytes:
    """As Windows has text, single surrogates and all."""
    return text.encode("utf-16-le", "surrogatepass")


def decode(data: bytes) -> str:
    return data.decode("utf-16-le", "surrogatepass")


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
