"""The source offer: which source packages, in which versions and under which licences, an image is made of.

sources.json, format 1: `format`, `suite`, `architecture`, `sources`: a list of `source`, `version`,
`packages` (binary packages of the image built from it; empty for what was built into others), `licences`.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from run import run

FORMAT = 1
HERE = Path(__file__).resolve().parent
_FIELDS = ("Package", "source:Package", "source:Version", "Built-Using", "Static-Built-Using")
_USED = re.compile(r"([a-z0-9][a-z0-9+.-]+) \(= ([^)\s]+)\)")  # deb-src-control(5): Built-Using
_LICENCE = re.compile(r"^License:[ \t]*(\S.*)$", re.MULTILINE | re.IGNORECASE)  # copyright-format 1.0
_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9.+-]*[A-Za-z0-9])")

Key = tuple[str, str]  # a source package and its version


def write(image: Path, root: Path, architecture: str, suite: str) -> None:
    """Write sources.json and source-offer.txt of the unpacked packages in `root`."""
    line = "\\t".join(f"${{{field}}}" for field in _FIELDS) + "\\n"
    told = run(["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", line])
    content = {
        "format": FORMAT,
        "suite": suite,
        "architecture": architecture,
        "sources": listed(told, root / "usr/share/doc"),
    }
    (image / "sources.json").write_text(json.dumps(content, indent=1) + "\n")
    shutil.copyfile(HERE / "source-offer.txt", image / "source-offer.txt")


def listed(told: str, docs: Path) -> list[dict[str, object]]:
    """The sources of the packages that dpkg-query `told` of, sorted."""
    packages: dict[Key, set[str]] = {}
    licences: dict[Key, set[str]] = {}
    for line in told.splitlines():
        package, source, version, *used = line.split("\t")
        packages.setdefault((source, version), set()).add(package)
        copyright_file = docs / package / "copyright"
        if copyright_file.exists():
            text = copyright_file.read_text("utf-8", errors="replace")
            licences.setdefault((source, version), set()).update(licences_of(text))
        for key in _USED.findall(" ".join(used)):
            packages.setdefault(key, set())
    return [
        {
            "source": source,
            "version": version,
            "packages": sorted(names),
            "licences": sorted(licences.get((source, version), ())),
        }
        for (source, version), names in sorted(packages.items())
    ]


def licences_of(text: str) -> set[str]:
    """The licences that a Debian copyright file names: its License fields, else the common ones it cites."""
    return {name.strip() for name in _LICENCE.findall(text)} or set(_COMMON.findall(text))
