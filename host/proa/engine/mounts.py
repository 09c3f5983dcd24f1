"""Which requests can carry mounts, and which host paths they name. Pure.

Bodies are read as the engine's decoder (Go's encoding/json) reads them: a key in any case is the same key,
and of a key that stands twice, each is looked at.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes, urlsplit

_VERSION = re.compile(r"^/v[0-9][0-9.]*(?=/)")
_INSPECTED = re.compile(r"/(containers/create|volumes/create|services/create|services/[^/]+/update)")
_WINDOWS = re.compile(r"^[A-Za-z]:[\\/]")
# What these name is the guest's own, whoever asks: the engine's socket, and the kernel's and engine's files.
GUEST_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")
GUEST_FOLDERS = ("/lib/modules", "/sys", "/proc", "/var/lib/docker")
_BIND_TYPES = ("none", "bind", "rbind")


class Unreadable(Exception):
    """The body cannot be looked through, though the engine might read it."""


class NotJson(Exception):
    """The body is not JSON, for the engine neither."""


class _Pairs(list[tuple[str, object]]):
    """A JSON object with all its pairs, in order, the doubled ones too."""


def path_of(target: bytes) -> str:
    """A request target's path as the engine's router sees it: decoded, cleaned, without the version."""
    text = target.decode("latin-1")
    path = urlsplit(text).path if "://" in text.partition("?")[0] else text.partition("?")[0]
    decoded = unquote_to_bytes(path).decode("utf-8", "replace")
    cleaned = posixpath.normpath("/" + decoded.lstrip("/"))
    return _VERSION.sub("", cleaned)


def carries_mounts(method: bytes, target: bytes) -> bool:
    return method.upper() == b"POST" and _INSPECTED.fullmatch(path_of(target)) is not None


def host_paths(body: bytes) -> list[str]:
    """Every path in the body that would be one of the host's, in order. Raises NotJson, Unreadable."""
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs, strict=False)
    try:
        # Only the first value: the engine's decoder may let pass what stands behind it.
        content, _ = decoder.raw_decode(body.decode("utf-8", "replace").lstrip(" \t\r\n"))
    except json.JSONDecodeError as error:
        raise NotJson(str(error)) from error  # what Python's decoder refuses, Go's does too
    except (ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from error
    found: list[str] = []
    for path in _named(content):
        if not is_guests(path) and path not in found:
            found.append(path)
    return found


def is_guests(path: str) -> bool:
    """True for what means the guest's own file, wherever it is asked from."""
    plain = posixpath.normpath("/" + path.lstrip("/")) if path.startswith("/") else path
    return plain in GUEST_SOCKETS or any(
        plain == folder or plain.startswith(folder + "/") for folder in GUEST_FOLDERS
    )


def is_host_path(source: str) -> bool:
    """True for a folder or file of the host's, False for a volume's name."""
    return source.startswith(("/", "\\", "~", ".")) or bool(_WINDOWS.match(source))


def _same(key: str, name: str) -> bool:
    # Go compares with bytes.EqualFold, which knows the long s and the Kelvin sign, as casefold does.
    return key.casefold() == name


def _every(value: object, *names: str) -> Iterator[object]:
    """All values at the path of keys `names`, through lists, in any spelling."""
    if isinstance(value, list) and not isinstance(value, _Pairs):
        for item in value:
            yield from _every(item, *names)
    elif not names:
        yield value
    elif isinstance(value, _Pairs):
        for key, item in value:
            if _same(key, names[0]):
                yield from _every(item, *names[1:])


def _named(content: object) -> Iterator[str]:
    for bind in _every(content, "hostconfig", "binds"):
        if isinstance(bind, str) and is_host_path(source := _source(bind)):
            yield source
    for mounts in (("hostconfig", "mounts"), ("tasktemplate", "containerspec", "mounts"), ("mounts",)):
        for mount in _every(content, *mounts):
            yield from _of_mount(mount)
    yield from _of_options(content, "driveropts")


def _of_mount(mount: object) -> Iterator[str]:
    if not isinstance(mount, _Pairs):
        return
    kinds = [kind.casefold() for kind in _every(mount, "type") if isinstance(kind, str)]
    for source in _every(mount, "source"):
        if isinstance(source, str) and source and ("bind" in kinds or is_host_path(source)):
            yield source
    for driver in _every(mount, "volumeoptions", "driverconfig"):
        yield from _of_options(driver, "options")


def _of_options(value: object, name: str) -> Iterator[str]:
    """`device` of a volume's driver options, where they ask for a bind."""
    for options in _every(value, name):
        if not isinstance(options, _Pairs):
            continue
        kinds = [item.strip().casefold() for key, item in options if key == "type" and isinstance(item, str)]
        words = re.split(
            r"[\s,]+", ",".join(item for key, item in options if key == "o" and isinstance(item, str))
        )
        binds = any(kind in _BIND_TYPES for kind in kinds) or any(
            word.casefold() in ("bind", "rbind") for word in words
        )
        for key, device in options:
            if key == "device" and isinstance(device, str) and binds and is_host_path(device):
                yield device


def _source(bind: str) -> str:
    """The source of `source:target[:options]`; a Windows drive's colon is not the separator."""
    start = 2 if _WINDOWS.match(bind) else 0
    end = bind.find(":", start)
    return bind if end < 0 and start else bind[:end] if end >= 0 else ""


def refusal(path: str) -> str:
    """What the user is told: what, why, and what to use instead."""
    return (
        f"Proa does not share the folder {path!r} of this computer with containers yet, "
        "so it would be empty there. Use a named volume (-v NAME:/path), docker cp, "
        "or COPY in a Dockerfile instead"
    )
