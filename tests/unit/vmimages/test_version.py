from __future__ import annotations

import gzip
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "vmimages"))

import version
from run import BuildError

from proa.images.versions import Version

OLD, NEW = datetime(2025, 3, 1, tzinfo=UTC), datetime(2026, 11, 20, 17, 6, 56, tzinfo=UTC)


def _entry(date: str) -> str:
    return f"bash (5-1) trixie; urgency=medium\n\n  * Words.\n\n -- A Maintainer <a@example.com>  {date}\n"


def test_it_is_of_the_packages_and_no_clock() -> None:
    assert version.number([NEW, OLD]) == version.number([OLD, NEW])
    assert version.number([OLD, NEW]).startswith(f"{version.REVISION}.20261120170656.")


def test_any_later_package_makes_a_higher_version() -> None:
    def of(*dates: datetime) -> Version:
        return Version.parse(version.number(list(dates)))

    assert of(OLD, NEW) < of(OLD, NEW + timedelta(seconds=1))
    # Also one that is not the newest: a security update may be older than another package.
    assert of(OLD, NEW) < of(OLD + timedelta(seconds=1), NEW)


def test_the_newest_entry_of_a_changelog_counts(tmp_path: Path) -> None:
    def write(name: str, text: str) -> None:
        with gzip.open(tmp_path / name, "wt") as file:
            file.write(text)

    assert version.date_of(tmp_path) is None
    write("changelog.gz", "upstream's words\n")
    assert version.date_of(tmp_path) is None
    first, second = "Sat, 01 Mar 2025 01:00:00 +0100", "Fri, 20 Nov 2026 17:06:56 +0000"
    write("changelog.Debian.gz", _entry(first))
    assert version.date_of(tmp_path) == OLD
    # A package that was only built again says so in a file of its own.
    write("changelog.Debian.amd64.gz", _entry(second) + _entry(first))
    assert version.date_of(tmp_path) == NEW


def test_packages_without_dates_are_no_version(tmp_path: Path) -> None:
    with pytest.raises(BuildError):
        version.of(tmp_path, ["bash", "dash"])
