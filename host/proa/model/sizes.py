"""Sizes in bytes (`2GiB`, `512MiB`, `1024`) and times (`90s`, `5m`, `off`) as people write them."""

from __future__ import annotations

from proa.model.errors import ProaError

MIB = 1 << 20
GIB = 1 << 30
_UNITS = {
    "": 1, "b": 1,
    "k": 1 << 10, "kib": 1 << 10, "kb": 1000,
    "m": MIB, "mib": MIB, "mb": 1000**2,
    "g": GIB, "gib": GIB, "gb": 1000**3,
    "t": 1 << 40, "tib": 1 << 40, "tb": 1000**4,
}  # fmt: skip


def parse_size(text: str) -> int:
    """Bytes for `text`; `2g`, `2GiB` and `2048 MiB` are the same. Raises ProaError `bad-size`."""
    stripped = text.strip()
    digits = len(stripped) - len(stripped.lstrip("0123456789."))
    number, unit = stripped[:digits], stripped[digits:].strip().lower()
    try:
        value = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        value = 0.0
    if not 1 <= value < 1 << 60:
        raise ProaError(
            "bad-size",
            f"{text!r} is not a size",
            why="a size is a positive number and a unit: MiB, GiB, TiB",
            hint="for example: 2GiB",
            usage=True,
        )
    return int(value)


def show_size(size: int) -> str:
    """The shortest exact form in binary units, as parse_size reads it."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        factor = _UNITS[unit.lower()]
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"


_SECONDS = {"s": 1, "m": 60, "h": 3600}


def parse_duration(text: str) -> float | None:
    """Seconds for `30s`, `5m` or `1h`; None for `off`. Raises ProaError `bad-duration`."""
    stripped = text.strip().lower()
    if stripped == "off":
        return None
    number, unit = stripped[:-1], stripped[-1:]
    if number.isascii() and number.isdigit() and unit in _SECONDS and 0 < int(number) < 100_000:
        return float(int(number) * _SECONDS[unit])
    raise ProaError(
        "bad-duration",
        f"{text!r} is not a time",
        why="a time is a whole number and s, m or h, or the word off",
        hint="for example: 5m",
        usage=True,
    )
