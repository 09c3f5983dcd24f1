"""What an ELF program needs at run time: its interpreter and its shared libraries.

Format: System V gABI, chapters 4 (file header, section headers) and 5 (dynamic linking).
Debian's programs keep their section headers, so `.dynamic` is found through those.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_SHT_PROGBITS, _SHT_DYNAMIC = 1, 6
_DT_NULL, _DT_NEEDED = 0, 1


def needed(data: bytes) -> tuple[str, ...]:
    """Names of the libraries, then the interpreter's path if there is one. Empty: it is no ELF64 file."""
    if data[:6] != b"\x7fELF\x02\x01":
        return ()
    sections = list(_sections(data))
    names: list[str] = []
    for kind, name, start, size, link in sections:
        if kind == _SHT_DYNAMIC:
            strings = sections[link][2]
            for tag, value in struct.iter_unpack("<qQ", data[start : start + size]):
                if tag == _DT_NULL:
                    break
                if tag == _DT_NEEDED:
                    names.append(_string(data, strings + value))
        elif kind == _SHT_PROGBITS and name == ".interp":
            names.append(_string(data, start))
    return tuple(names)


def _sections(data: bytes) -> Iterator[tuple[int, str, int, int, int]]:
    """(type, name, file offset, size, link) of each section."""
    (offset,) = struct.unpack_from("<Q", data, 0x28)
    entry_size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    rows = [struct.unpack_from("<IIQQQQIIQQ", data, offset + index * entry_size) for index in range(count)]
    for name, kind, _flags, _address, start, size, link, *_rest in rows:
        yield kind, _string(data, rows[names_index][4] + name), start, size, link


def _string(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()
