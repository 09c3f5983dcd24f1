"""Edits of `machine.toml` that keep what a person wrote there: comments, order, spelling."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping
from typing import Any

import tomlkit
import tomlkit.exceptions

from proa.model.errors import ProaError


def edit(text: str, changes: Mapping[str, Any]) -> str:
    """`text` with the dotted keys of `changes` set; None takes a key away.

    Raises ProaError `config-not-editable` where that would change anything else: the text is then
    written in a way that only its author can change.
    """
    document = tomlkit.parse(text)
    expected = tomllib.loads(text)
    for key, value in changes.items():
        path = key.split(".")
        try:
            _put(document, path, value)
            _put(expected, path, copy.deepcopy(value))
        except (tomlkit.exceptions.TOMLKitError, TypeError, AttributeError) as error:
            raise _not_editable(key) from error
    edited = tomlkit.dumps(document)
    try:
        same = tomllib.loads(edited) == expected
    except tomllib.TOMLDecodeError:
        same = False
    if not same:
        raise _not_editable(", ".join(changes))
    return edited


def _put(table: Any, path: list[str], value: Any) -> None:
    for name in path[:-1]:
        if name not in table:
            if value is None:
                return
            table[name] = tomlkit.table() if isinstance(table, tomlkit.TOMLDocument) else {}
        table = table[name]
        if not isinstance(table, dict):
            raise TypeError(f"{name} is no table")
    if value is not None:
        table[path[-1]] = value
    elif path[-1] in table:
        del table[path[-1]]


def _not_editable(key: str) -> ProaError:
    return ProaError(
        "config-not-editable",
        f"{key} cannot be changed in machine.toml",
        why="a part of its name is something else there, or the file is written in an unusual way",
        hint="change it by hand; the file is left as it is",
    )
