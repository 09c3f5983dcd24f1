"""`proa status` without the verb's own imports: what it prints, and when it leaves it to the verb."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from proa.cli import quick
from tests.support.homes import Home


@pytest.fixture
def home() -> Iterator[Home]:
    with Home() as home:
        yield home


def test_it_says_what_the_verb_says(home: Home) -> None:
    home.ok("create", "default")
    told = quick.status([], home.environ)
    assert told is not None and told.splitlines()[0] == "machine  default" and "stopped" in told
    # A flag before the name is the verb's own business.
    assert home.ok("status", "--", "default") == told + "\n"
    as_json = quick.status(["--json"], home.environ)
    assert as_json is not None and json.loads(as_json) == json.loads(
        home.ok("status", "--json", "--", "default")
    )
    assert quick.status(["nothing"], home.environ) == "nothing: absent\nmake and start it: proa start nothing"


@pytest.mark.parametrize("argv", [["--help"], ["a", "b"], ["../x"], ["--json", "--json", "a"]])
def test_what_is_unusual_is_left_to_the_verb(home: Home, argv: list[str]) -> None:
    home.ok("version")
    assert quick.status(argv, home.environ) is None


def test_without_an_agent_or_with_another_version_it_is_left_to_the_verb(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert quick.status([], home.environ) is None
    home.ok("version")
    assert quick.status([], home.environ) is not None
    monkeypatch.setattr(quick, "__version__", "0.0.9")
    assert quick.status([], home.environ) is None


def test_it_imports_little(home: Home) -> None:
    """150 ms is the budget (a clock would tell of the machine's load)."""
    home.ok("version")
    script = (
        "import sys; from proa.cli.entry import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "status"], env=home.environ, capture_output=True, text=True, check=True
    )
    assert "absent" in done.stdout
    assert not {"click", "msgspec", "pathlib", "re", "typing", "http.client"} & set(done.stderr.split())
