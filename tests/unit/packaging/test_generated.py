"""What the packages are made of: the lock's part, the manual page, completions, copyrights, versions."""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "packaging"))

import copyrights  # noqa: E402
import generated  # noqa: E402
import lock  # noqa: E402

from proa import __version__  # noqa: E402
from proa.cli.main import VERBS  # noqa: E402
from tests.support.commands import run  # noqa: E402

SITE = Path(metadata.distribution("click").locate_file(""))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    generated.write(SITE, folder, "2026-11-25")
    return folder


def test_the_lock_is_cut_to_what_runs() -> None:
    cut = lock.entries(lock.runtime_lock())
    assert {"aiohttp", "click", "h11", "msgspec", "platformdirs", "qemu-qmp", "rich", "yarl"} <= cut.keys()
    assert not {"pytest", "mypy", "ruff", "hatchling", "docker"} & cut.keys()
    whole = lock.entries((ROOT / "requirements.lock").read_text())
    assert all(whole[name] == block for name, block in cut.items())


def test_a_closure_follows_needs_and_leaves_extras_out() -> None:
    needs = {"a": ["B_b>=1", "c; extra == 'x'", "w; sys_platform == 'win32'"], "b-b": ["a"]}
    assert lock.closure(["A[x]>=2"], lambda name: needs.get(name, ())) == {"a", "b-b", "w"}


@pytest.mark.parametrize("text", ["a==1", "a>=1 \\\n    --hash=sha256:00", "-r other.txt"])
def test_what_is_not_pinned_by_its_hash_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="pinned"):
        lock.entries(text)


def test_the_manual_page_names_every_verb_and_groff_takes_it(made: Path) -> None:
    page = (made / "proa.1").read_text()
    for verb in VERBS:
        assert re.search(rf"^\.SS proa {verb}\b", page, re.MULTILINE), verb
    assert "\\-\\-json" in page and "--json" not in page
    if shutil.which("groff"):
        shown = run(["groff", "-man", "-Tutf8", "-ww", str(made / "proa.1")], timeout=60).check()
        assert shown.err == ""
        assert "Docker containers in a small virtual machine" in shown.out


@pytest.mark.parametrize(
    ("shell", "name", "check"),
    [("bash", "proa.bash", ["-n"]), ("zsh", "_proa", ["-n"]), ("fish", "proa.fish", ["--no-execute"])],
)
def test_completions_are_scripts_of_their_shells(made: Path, shell: str, name: str, check: list[str]) -> None:
    script = (made / name).read_text()
    assert f"_PROA_COMPLETE={shell}_complete" in script
    assert shell != "zsh" or script.startswith("#compdef proa\n")  # else zsh does not load it
    if shutil.which(shell):
        assert run([shell, *check, str(made / name)], timeout=60).check().err == ""


def test_completion_answers() -> None:
    program = Path(sys.executable).with_name("proa")
    environ = {**os.environ, "_PROA_COMPLETE": "bash_complete", "COMP_WORDS": "proa sta", "COMP_CWORD": "1"}
    told = run([str(program)], timeout=60, env=environ).check().out.splitlines()
    assert {"plain,start", "plain,status"} <= set(told)


def test_every_package_inside_is_in_the_copyright_file(made: Path) -> None:
    text = (made / "copyright").read_text()
    named = {lock.normal(name) for name in re.findall(r"^Comment: (\S+) ", text, re.MULTILINE)}
    others = {"colorama", "pyobjc-core", "pyobjc-framework-cocoa", "pyobjc-framework-fsevents"}
    assert lock.entries(lock.runtime_lock()).keys() - named <= others, "what other systems need is not inside"
    # Debian's own copies are named, not repeated (Debian Policy 12.5).
    assert "END OF TERMS AND CONDITIONS" not in text
    assert "/usr/share/common-licenses/Apache-2.0" in text and "common-licenses/LGPL" in text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Copyright (c) 2020 Ann and others", ("2020 Ann and others",)),
        ("# Copyright © 2009-2022 Red Hat Inc.", ("2009-2022 Red Hat Inc.",)),
        (" * Copyright: the demo contributors", ("the demo contributors",)),
        ("Copyright [yyyy] [name of copyright owner]", ()),
        ("Copyright (C) 1991 Free Software Foundation, Inc.", ()),
        ("copyright notice, this list of conditions and the following 2 lines", ()),
        ("Copyright (C) 2021", ()),
    ],
)
def test_holders_are_read_from_the_lines_that_name_them(line: str, expected: tuple[str, ...]) -> None:
    assert copyrights.holders([line, line]) == expected


def test_the_debian_changelog_has_our_version() -> None:
    first = (ROOT / "packaging/debian/changelog").read_text().splitlines()[0]
    assert first.startswith(f"proa ({__version__}) ")
