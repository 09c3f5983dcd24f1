"""What `proa shell` makes of its words."""

from __future__ import annotations

import pytest

from proa.cli.shell import _split, shell_verb
from proa.model.errors import ProaError


def _parsed(*typed: str) -> tuple[str | None, tuple[str, ...]]:
    """As click hands them over."""
    context = shell_verb.make_context("shell", list(typed))
    return _split(context.params["words"], ["proa", "shell", *typed])


@pytest.mark.parametrize(
    ("typed", "name", "command"),
    (
        ((), None, ()),
        (("work",), "work", ()),
        (("--", "uname", "-a"), None, ("uname", "-a")),
        (("work", "--", "uname", "-a"), "work", ("uname", "-a")),
        (("work", "--"), "work", ()),
        (("--", "sh", "-c", "echo $1", "--", "x"), None, ("sh", "-c", "echo $1", "--", "x")),
        (("work", "--", "sh", "--", "--"), "work", ("sh", "--", "--")),
    ),
)
def test_a_name_and_a_command(typed: tuple[str, ...], name: str | None, command: tuple[str, ...]) -> None:
    assert _parsed(*typed) == (name, command)


@pytest.mark.parametrize("typed", (("uname", "-a"), ("work", "uname", "--", "-a")))
def test_a_command_without_its_mark_is_refused(typed: tuple[str, ...]) -> None:
    with pytest.raises(ProaError) as caught:
        _parsed(*typed)
    assert caught.value.usage and "behind --" in caught.value.hint
