"""An image's version, from its recipe and its packages alone: REVISION.NEWEST.SUM.

NEWEST is the date of the newest package (YYYYMMDDhhmmss, UTC), SUM the sum of all packages' dates (seconds).
No clock is asked, so the same packages give the same version; and a package that is replaced by a later one
raises the sum where it does not raise the newest, so versions only grow. Dates are those of the changelogs
that Debian's policy (12.7) puts into every package.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from recipe import REVISION
from run import BuildError

_SIGNED = re.compile(r"^ -- .*>  (.+)$", re.MULTILINE)  # deb-changelog(5): the trailer of an entry
_MOST = 256 << 10  # characters; the newest entry is the first


def of(root: Path, packages: Iterable[str]) -> str:
    """The version of an image whose unpacked packages are in `root`. Raises BuildError."""
    dates = {package: date_of(root / "usr/share/doc" / package) for package in packages}
    unknown = [package for package, date in dates.items() if date is None]
    known = [date for date in dates.values() if date is not None]
    if not known or len(unknown) > len(known) // 4:
        raise BuildError(f"the dates of {len(unknown)} packages are not known: {', '.join(unknown[:5])} …")
    return number(known)


def number(dates: list[datetime]) -> str:
    newest = max(dates).astimezone(UTC)
    return f"{REVISION}.{newest:%Y%m%d%H%M%S}.{sum(int(date.timestamp()) for date in dates)}"


def date_of(folder: Path) -> datetime | None:
    """The date of a package, whose documentation is in `folder`; None where it says none.

    changelog.Debian.ARCHITECTURE.gz is that of a package that was only built again, changelog.gz a
    native package's own (or, of no use here, the upstream's).
    """
    for pattern in ("changelog.Debian.*.gz", "changelog.Debian.gz", "changelog.gz"):
        for path in sorted(folder.glob(pattern)):
            with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
                found = _SIGNED.search(file.read(_MOST))
            if found:
                try:
                    return parsedate_to_datetime(found[1].strip())
                except ValueError:
                    continue
    return None
