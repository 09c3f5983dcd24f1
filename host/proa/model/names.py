"""Names of machines. Stdlib only and small: the `proa docker` path imports it."""

from __future__ import annotations

from proa.model.errors import ProaError

DEFAULT_MACHINE = "default"
MAX_NAME = 40
_FIRST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_REST = _FIRST | frozenset("-_.")


def check_name(name: str) -> str:
    """Return `name` if a machine may be called so, else raise ProaError `bad-name`.

    A name is a folder's name, a part of a socket's path and of a host name, so it is
    1-40 characters of a-z, 0-9, '-', '_' and '.', the first a letter or digit.
    """
    if 0 < len(name) <= MAX_NAME and name[0] in _FIRST and _REST.issuperset(name):
        return name
    shown = name if len(name) <= MAX_NAME else name[:MAX_NAME] + "…"
    raise ProaError(
        "bad-name",
        f"a machine cannot be called {shown!r}",
        why=f"names are 1 to {MAX_NAME} of a-z, 0-9, '-', '_' and '.', and start with a letter or digit",
        hint="choose another name, for example: proa start work",
        usage=True,
    )
