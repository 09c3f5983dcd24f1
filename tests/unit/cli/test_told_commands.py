"""What README, docs and hints tell people to type is there: verbs, options, settings."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from proa.cli.main import VERBS, Verbs
from proa.model import settings
from tests.support.caches import REPOSITORY

PAGES = ("README.md", "docs/images.md", "docs/settings.md")
_FENCE = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_ENDS = {"&&", "||", ";", "|", ">", "…", "(or"}


def _told(page: str) -> Iterator[list[str]]:
    """Each command line of `proa` on a page, without `proa`."""
    text = (REPOSITORY / page).read_text()
    pieces = [line for fence in _FENCE.findall(text) for line in fence.splitlines()]
    pieces += _INLINE.findall(_FENCE.sub("", text))
    for piece in pieces:
        words = shlex.split(re.sub(r'\$\(|\)|"', " ", piece), comments=True)
        while (at := next((at for at, word in enumerate(words) if Path(word).name == "proa"), -1)) >= 0:
            words = words[at + 1 :]
            end = next((at for at, word in enumerate(words) if word in _ENDS), len(words))
            if end and not words[0].startswith("proa"):
                yield words[:end]


COMMANDS = sorted({(page, shlex.join(words)) for page in PAGES for words in _told(page)})


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_of_the_pages_is_taken(page: str, line: str) -> None:
    words = shlex.split(line)
    command: click.Command = Verbs("proa")
    context = click.Context(command, info_name="proa")
    while isinstance(command, click.Group) and words and words[0] not in ("--debug", "VERB"):
        found = command.get_command(context, words[0])
        assert found is not None, f"{page} says proa {line}"
        command, words = found, words[1:]
    if words and not isinstance(command, click.Group):
        command.make_context(command.name, list(words))
    if line.startswith(("config set ", "config get ", "config unset ")):
        settings.find(words[0])


def test_the_pages_tell_of_the_common_verbs() -> None:
    told = {line.split()[0] for _, line in COMMANDS}
    assert told >= {"start", "stop", "suspend", "status", "docker", "config", "image", "share", "doctor"}


def _hints() -> Iterator[tuple[str, str]]:
    """Verb and the word behind it, of each text in the product that tells of a command."""
    for path in sorted((REPOSITORY / "host/proa").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from re.findall(r"(?:: |`|, or |; or |, )proa ([a-z]+)(?: ([a-z]+))?", node.value)


def test_hints_name_verbs_that_there_are() -> None:
    found = set(_hints())
    assert len(found) > 20
    for verb, word in found:
        assert verb in VERBS, f"proa {verb} {word}"
        command = Verbs("proa").get_command(click.Context(Verbs("proa")), verb)
        if isinstance(command, click.Group) and word:
            assert command.get_command(click.Context(command), word), f"proa {verb} {word}"
