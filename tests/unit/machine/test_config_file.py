from __future__ import annotations

import tomllib
from typing import Any

import pytest

from proa.machine.config_file import edit
from proa.model.errors import ProaError

MINE = """\
# mine
cpus = 1   # one is enough
version = 1

[daemon]
# keep this
debug = true

[daemon.log-opts]
max-size = "10m" # ten
"""


@pytest.mark.parametrize(
    "changes",
    [
        {"cpus": 2},
        {"memory": "3GiB"},
        {"certificates": ["/a.pem"]},
        {"registry.mirrors": ["https://a"], "registry.insecure": ["b"]},
        {"daemon.log-opts.max-file": "3"},
        {"daemon.features.buildkit": False},
        {"daemon.labels": ["a=b"]},
        {"daemon.runtimes": {"x": {"path": "/x"}}},
        {"proxy.http": 'odd " \\ value'},
        {"daemon.log-opts.max-size": None},
        {"daemon.debug": None},
        {"proxy.no": None},
    ],
)
def test_comments_survive_and_nothing_else_changes(changes: dict[str, Any]) -> None:
    edited = edit(MINE, changes)
    assert edited.startswith("# mine\n")
    assert "# keep this\n" in edited
    if "cpus" not in changes:
        assert "cpus = 1   # one is enough\n" in edited
    back = edit(edited, {"proxy.https": "http://x"})
    content = tomllib.loads(back)
    assert content["version"] == 1 and content["proxy"]["https"] == "http://x"


@pytest.mark.parametrize("text", ["daemon = 3\n", "[[daemon]]\n", "daemon.x = 1\n[other]\n"])
def test_a_file_of_another_shape_is_never_half_changed(text: str) -> None:
    try:
        edited = edit(text, {"daemon.debug": True})
    except ProaError as error:
        assert error.code == "config-not-editable"
    else:
        assert tomllib.loads(edited)["daemon"]["debug"] is True
        assert tomllib.loads(edited).keys() == tomllib.loads(text).keys()
