"""Which requests can carry mounts, and which host paths they name. Pure.

Bodies are read as the engine's decoder (Go's encoding/json) reads them: a key in any case is the same key,
and of a key that stands twice, each is looked at.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes, urlsplit

from proa.model.host_path import GUEST_ROOT
from proa.model.link_path import as_given

_VERSION = re.compile(r"^/v[0-9][0-9.]*(?=/)")
_INSPECTED = re.compile(r"/(containers/create|volumes/create|services/create|services/[^/]+/update)")
_WINDOWS = re.compile(r"^[A-Za-z]:[\\/]")
# What these name is the guest's own, whoever asks: the engine's socket, and the kernel's and engine's files.
GUEST_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")
GUEST_FOLDERS = ("/lib/modules", "/sys", "/proc", "/var/lib/docker")
_BIND_TYPES = ("none", "bind", "rbind")
# Words of a bind for other systems' engines: caches that are not needed here, labels that the guest lacks.
_MEANT_FOR_OTHERS = ("cached", "delegated", "consistent", "default", "z")
# Answers that name a mount's source.
_SHOWS = re.compile(
    r"/(containers(/[^/]+)?/(json|create|start)|volumes(/[^/]+)?|services(/.+)?|tasks(/[^/]+)?|system/df)"
)


class Unreadable(Exception):
    """The body cannot be looked through, though the engine might read it."""


class NotJson(Exception):
    """The body is not JSON, for the engine neither."""


class _Pairs(list[tuple[str, object]]):
    """A JSON object with all its pairs, in order, the doubled ones too."""


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


@dataclass(frozen=True)
class _Place:
    """Where a body names a host path, and how another one is put there."""

    path: str
    put: Callable[[Target], None]
    creates: bool = False


def path_of(target: bytes) -> str:
    """A request target's path as the engine's router sees it: decoded, cleaned, without the version."""
    text = target.decode("latin-1")
    path = text.partition("?")[0]
    if "://" in path:
        with contextlib.suppress(ValueError):  # no address at all, which the engine refuses
            path = urlsplit(text).path
    decoded = unquote_to_bytes(path).decode("utf-8", "replace")
    cleaned = posixpath.normpath("/" + decoded.lstrip("/"))
    return _VERSION.sub("", cleaned)


def shows_mounts(path: str) -> bool:
    """Whether an answer to a request of such a path may name host paths, which the guest has elsewhere."""
    return _SHOWS.fullmatch(path) is not None


def shown(answer: bytes) -> bytes:
    """An engine's JSON answer with the host's names of paths."""
    return as_given(answer).replace(GUEST_ROOT.encode() + b"/", b"/")


def carries_mounts(method: bytes, path: str) -> bool:
    return method.upper() == b"POST" and _INSPECTED.fullmatch(path) is not None


@dataclass(frozen=True)
class HostMount:
    """A host path that a request names, and what the API says of one that does not exist."""

    path: str
    creates: bool  # `-v` makes the folder; `--mount` fails


@dataclass(frozen=True)
class Target:
    """Where the guest has a host path."""

    path: str
    writable: bool


def host_mounts(body: bytes) -> list[HostMount]:
    """Every path in the body that would be one of the host's, in order. Raises NotJson, Unreadable."""
    found: dict[str, HostMount] = {}
    for place in _places(_decoded(body)[0]):
        path = place.path
        if not is_guests(path):
            creates = place.creates and (path not in found or found[path].creates)
            found[path] = HostMount(path, creates)
    return list(found.values())


def rewrite(body: bytes, targets: Mapping[str, Target]) -> bytes:
    """The body with the guest's paths in place of the host's. Raises NotJson, Unreadable, KeyError."""
    content, rest = _decoded(body)
    for place in list(_places(content)):
        if not is_guests(place.path):
            place.put(targets[place.path])
    return _encoded(content).encode("utf-8", "surrogatepass") + rest


def _decoded(body: bytes) -> tuple[object, bytes]:
    """The first value in the body, and what stands behind it, which the engine's decoder may let pass."""
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs, strict=False, parse_float=_Number, parse_int=_Number)
    text = body.decode("utf-8", "replace").lstrip(" \t\r\n")
    try:
        content, end = decoder.raw_decode(text)
    except json.JSONDecodeError as error:
        raise NotJson(str(error)) from error  # what Python's decoder refuses, Go's does too
    except (ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from error
    return content, text[end:].encode()


def _encoded(value: object) -> str:
    """As it came, doubled keys and long numbers too."""
    if isinstance(value, _Pairs):
        return "{" + ",".join(f"{json.dumps(key)}:{_encoded(item)}" for key, item in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_encoded, value)) + "]"
    return str(value) if isinstance(value, _Number) else json.dumps(value)


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


def _places(content: object) -> Iterator[_Place]:
    for binds in _every_list(content, "hostconfig", "binds"):
        for index, bind in enumerate(binds):
            if isinstance(bind, str) and is_host_path(source := _source(bind)):
                yield _Place(source, _put_bind(binds, index, bind, source), creates=True)
    for mounts in (("hostconfig", "mounts"), ("tasktemplate", "containerspec", "mounts"), ("mounts",)):
        for mount in _every(content, *mounts):
            yield from _of_mount(mount)
    yield from _of_options(content, "driveropts")


def _every_list(value: object, *names: str) -> Iterator[list[object]]:
    """All lists at the path of keys `names`, themselves and not their items."""
    for owner in _every(value, *names[:-1]):
        if isinstance(owner, _Pairs):
            for key, item in owner:
                if _same(key, names[-1]) and isinstance(item, list) and not isinstance(item, _Pairs):
                    yield item


def _put_bind(binds: list[object], index: int, bind: str, source: str) -> Callable[[Target], None]:
    def put(target: Target) -> None:
        inside, _, options = bind[len(source) + 1 :].partition(":")
        words = [word for word in options.split(",") if word and word.casefold() not in _MEANT_FOR_OTHERS]
        if not target.writable:
            words = ["ro", *(word for word in words if word not in ("rw", "ro"))]
        binds[index] = ":".join([target.path, inside, *([",".join(words)] if words else [])])

    return put


def _of_mount(mount: object) -> Iterator[_Place]:
    if not isinstance(mount, _Pairs):
        return
    kinds = [kind.casefold() for kind in _every(mount, "type") if isinstance(kind, str)]
    creates = any(value is True for value in _every(mount, "bindoptions", "createmountpoint"))
    for index, (key, source) in enumerate(mount):
        named = _same(key, "source") and isinstance(source, str) and source
        if named and isinstance(source, str) and ("bind" in kinds or is_host_path(source)):
            yield _Place(source, _put_mount(mount, index), creates)
    for driver in _every(mount, "volumeoptions", "driverconfig"):
        yield from _of_options(driver, "options")


def _put_mount(mount: _Pairs, index: int) -> Callable[[Target], None]:
    def put(target: Target) -> None:
        mount[index] = (mount[index][0], target.path)
        if not target.writable:
            mount.append(("ReadOnly", True))  # the last of several counts

    return put


def _of_options(value: object, name: str) -> Iterator[_Place]:
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
        for index, (key, device) in enumerate(options):
            if key == "device" and isinstance(device, str) and binds and is_host_path(device):
                yield _Place(device, _put_device(options, index))


def _put_device(options: _Pairs, index: int) -> Callable[[Target], None]:
    def put(target: Target) -> None:
        options[index] = ("device", target.path)
        if not target.writable:
            given = next((item for key, item in options if key == "o" and isinstance(item, str)), "")
            options.append(("o", f"{given},ro".lstrip(",")))

    return put


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
