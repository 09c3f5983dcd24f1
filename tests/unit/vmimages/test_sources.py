from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "vmimages"))

import sources

TOLD = """\
busybox-static\tbusybox\t1:1.37.0-6\tglibc (= 2.41-12), libxcrypt (= 1:4.4.38-1)\t
docker.io\tdocker.io\t26.1.5-9\t\tgolang-1.24 (= 1.24.4-1)
docker-cli\tdocker.io\t26.1.5-9\t\t
"""


def test_every_source_is_named_also_what_was_built_in(tmp_path: Path) -> None:
    (tmp_path / "docker-cli").mkdir()
    (tmp_path / "docker-cli/copyright").write_text("Files: *\nLicense: Apache-2.0\n")
    (tmp_path / "busybox-static").mkdir()
    (tmp_path / "busybox-static/copyright").write_text("See /usr/share/common-licenses/GPL-2.\n")
    found = sources.listed(TOLD, tmp_path)
    assert [(entry["source"], entry["version"], entry["packages"], entry["licences"]) for entry in found] == [
        ("busybox", "1:1.37.0-6", ["busybox-static"], ["GPL-2"]),
        ("docker.io", "26.1.5-9", ["docker-cli", "docker.io"], ["Apache-2.0"]),
        ("glibc", "2.41-12", [], []),
        ("golang-1.24", "1.24.4-1", [], []),
        ("libxcrypt", "1:4.4.38-1", [], []),
    ]
