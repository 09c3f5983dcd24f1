"""Host paths that lead through an absolute link, as the guest has them. Pure.

A link's absolute target would lead to the guest's own files, so the guest cannot follow such a path by its
names. It gets a name for the whole path instead, `/run/proa/host/.proa-links/%2Fhome%2Fme%2Fcurrent`: a link
that the share server makes up, read anew each time, to where the path leads on the host just then. So a
container's mount keeps the name that it was given, and what that leads to may change with its next start.
"""

from __future__ import annotations

import json
import re
from urllib.parse import quote, unquote_to_bytes

from proa.model.host_path import GUEST_ROOT

FOLDER = ".proa-links"
MOST_NAME = 1000  # bytes; the guest's kernel takes a name of 1,024: linux/fs/fuse/fuse_i.h, FUSE_NAME_MAX
_NAMED = re.compile(rf"{re.escape(GUEST_ROOT)}/{re.escape(FOLDER)}/((?:[\w.~-]|%[0-9A-F]{{2}})+)".encode())


def to_link(path: str) -> str | None:
    """Where the guest has the link that leads to a whole path of the host's; None if it would be too long."""
    name = quote(path, safe="", errors="surrogateescape")
    return f"{GUEST_ROOT}/{FOLDER}/{name}" if len(name) <= MOST_NAME else None


def from_name(name: bytes) -> bytes | None:
    """The host path that a name in FOLDER stands for; None for a name that `to_link` makes of no path."""
    path = unquote_to_bytes(name)
    plain = path.startswith(b"/") and b"\0" not in path and len(name) <= MOST_NAME
    return path if plain and quote(path, safe="").encode() == name else None


def as_given(answer: bytes) -> bytes:
    """An answer in JSON, with the paths that such links stand for in their place."""
    return _NAMED.sub(_in_json, answer)


def _in_json(found: re.Match[bytes]) -> bytes:
    path = unquote_to_bytes(found[1]).decode("utf-8", "replace")
    return json.dumps(path, ensure_ascii=False)[1:-1].encode()
