"""The settings of a machine: one table that gives keys, checks, help, `proa config` and docs/settings.md.

A value has the form that it has in `machine.toml`: sizes are text (`2GiB`), lists are lists. A new setting
is one entry in SETTINGS; MachineConfig.setting(KEY) reads it.
"""

from __future__ import annotations

import difflib
import enum
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from proa.model import shares
from proa.model.errors import ProaError
from proa.model.sizes import parse_duration, parse_size, show_size

MOST_CPUS = 512  # what q35 offers
MOST_TEXT = 64 << 10  # characters of one value
MOST_DEPTH = 16  # of a value of daemon.json
DAEMON = "daemon."

# What dockerd takes over on SIGHUP (its reference, "Configuration reload behavior").
RELOADABLE = frozenset(
    (
        "allow-nondistributable-artifacts", "authorization-plugins", "debug", "default-runtime", "features",
        "insecure-registries", "labels", "live-restore", "max-concurrent-downloads", "max-concurrent-uploads",
        "max-download-attempts", "network-diagnostic-port", "registry-mirrors", "runtimes",
        "shutdown-timeout",
    )
)  # fmt: skip
# What the guest itself decides: another value would cut the engine off, or lose data with the next stop.
_OURS = frozenset(("containerd", "data-root", "exec-root", "hosts", "pidfile"))


class Effect(enum.StrEnum):
    """When a change is felt by a machine that runs."""

    LIVE = "live"
    RESTART = "restart"


@dataclass(frozen=True)
class Kind:
    """A type: `read` makes a value of what was typed, `check` proves one; both raise ValueError."""

    name: str
    read: Callable[[Sequence[str]], Any]
    check: Callable[[Any], Any]


@dataclass(frozen=True)
class Setting:
    key: str
    kind: Kind
    default: Any
    help: str
    example: str
    effect: Effect = Effect.RESTART

    def parse(self, words: Sequence[str]) -> Any:
        """The value for what was typed. Raises ProaError `bad-setting`."""
        try:
            if sum(map(len, words)) > MOST_TEXT:
                raise ValueError(f"it is longer than {MOST_TEXT} characters")
            return self.kind.check(self.kind.read(words))
        except ValueError as error:
            raise self._bad(error) from error

    def check(self, value: Any) -> Any:
        """The value, checked and in its one form. Raises ProaError `bad-setting`."""
        try:
            return self.kind.check(value)
        except ValueError as error:
            raise self._bad(error) from error

    def _bad(self, error: ValueError) -> ProaError:
        return ProaError(
            "bad-setting",
            f"{self.key} cannot be set so",
            why=f"{self.key} is {self.kind.name}: {mask(str(error))}",
            hint=f"for example: proa config set {self.key} {self.example}",
            usage=True,
        )


# -- kinds -----------------------------------------------------------------------------------------


def _one(words: Sequence[str]) -> str:
    if len(words) != 1:
        raise ValueError(f"it takes one value, and {len(words)} were given")
    return words[0]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError("it must be printable text")
    return value


def _number(value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"it must be {least} to {most}")
    return value


def _size(value: Any) -> str:
    try:
        return show_size(parse_size(_text(value)))
    except ProaError as error:
        raise ValueError(f"{error.message}, {error.hint}") from error


def _duration(value: Any) -> str:
    try:
        parse_duration(_text(value))
    except ProaError as error:
        raise ValueError(f"{error.message}, {error.hint}") from error
    return str(value).strip().lower()


def _yes_no(words: Sequence[str]) -> bool:
    known = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    word = _one(words).lower()
    if word not in known:
        raise ValueError("it must be true or false")
    return known[word]


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("it must be true or false")
    return value


def _list_of(check: Callable[[Any], str]) -> Callable[[Any], list[str]]:
    def checked(value: Any) -> list[str]:
        if not isinstance(value, list):
            raise ValueError("it must be a list of texts")
        return list(dict.fromkeys(check(item) for item in value))

    return checked


def _words(words: Sequence[str]) -> list[str]:
    """Several words, or one with commas, or a JSON list."""
    if len(words) == 1 and words[0].lstrip().startswith("["):
        found: list[str] = _json(words[0])
        return found
    return [part.strip() for word in words for part in word.split(",") if part.strip()]


def _url(value: Any) -> str:
    text = _text(value)
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or " " in text:
        raise ValueError("it must be http:// or https://, a host, and perhaps a port")
    return text


def _mirror(value: Any) -> str:
    parts = urlsplit(_url(value))
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("a mirror's address has no user, no ? and no #: the engine refuses them")
    return parts.geturl()


def _proxy(value: Any) -> str:
    """Empty is none."""
    return "" if value == "" else _url(value)


def _paths(words: Sequence[str]) -> list[str]:
    return [os.path.abspath(word) for word in words]  # noqa: PTH100  (purely a matter of text)


def _path(value: Any) -> str:
    if not os.path.isabs(_text(value)):  # noqa: PTH117
        raise ValueError("it must be a whole path, from the root on")
    return str(value)


def _share(value: Any) -> str:
    return value if value == shares.USUAL else str(shares.Share.parse(_text(value)))


def _either(one: str, other: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in (one, other):
            raise ValueError(f"it must be {one} or {other}")
        return str(value)

    return check


_REGISTRY = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(:\d{1,5})?|[0-9a-fA-F:.]+/\d{1,3}")


def _registry(value: Any) -> str:
    if not _REGISTRY.fullmatch(_text(value)):
        raise ValueError("it must be HOST, HOST:PORT or a network like 10.0.0.0/8, without http://")
    return str(value)


def _json(text: str) -> Any:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _json_or_text(words: Sequence[str]) -> Any:
    word = _one(words)
    try:
        return _json(word)
    except json.JSONDecodeError:
        if word.lstrip().startswith(("{", "[", '"')):
            raise
        return word


def _plain(value: Any, depth: int = 0) -> Any:
    """A value that both TOML and JSON can hold."""
    if depth > MOST_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        return {_text(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return value
    if isinstance(value, str):
        value.encode()  # a lone surrogate raises UnicodeEncodeError, which is a ValueError
        return value
    raise ValueError("it must be text, a number, true, false, a list or a table; null is `unset`")


CPUS = Kind("a whole number", lambda words: int(_one(words)), lambda value: _number(value, 1, MOST_CPUS))
SIZE = Kind("a size", _one, _size)
TEXT = Kind("text", _one, _text)
DURATION = Kind("a time", _one, _duration)
BOOLEAN = Kind("true or false", _yes_no, _boolean)
PROXY = Kind("a URL", _one, _proxy)
MIRRORS = Kind("a list of URLs", _words, _list_of(_mirror))
REGISTRIES = Kind("a list of registries", _words, _list_of(_registry))
PATHS = Kind("a list of files", _paths, _list_of(_path))
HOSTS = Kind("a list of hosts", _words, _list_of(_text))
SHARES = Kind("a list of folders", _words, _list_of(_share))
OWNER = Kind("keep or user", _one, _either("keep", "user"))
LOCKS = Kind("guest or host", _one, _either("guest", "host"))
JSON = Kind("a value of daemon.json", _json_or_text, _plain)


# -- the table -------------------------------------------------------------------------------------

SETTINGS = (
    Setting("cpus", CPUS, 1, "Processors.", "2"),
    Setting("memory", SIZE, "2GiB", "Memory.", "4GiB"),
    Setting(
        "disk", SIZE, "60GiB",
        "The most its disk may grow to; it can be made larger, never smaller.", "100GiB"
    ),
    Setting("driver", TEXT, "qemu", "The hypervisor's driver.", "qemu"),
    Setting(
        "start_at_login", BOOLEAN, False,
        "Start it as soon as you log in; otherwise the first docker command starts it, if it ran before.",
        "true", Effect.LIVE,
    ),
    Setting(
        "idle.after", DURATION, "5m",
        "It is suspended after this time without use (off: never), and wakes with the next request.",
        "30m", Effect.LIVE,
    ),
    Setting(
        "idle.with_containers", BOOLEAN, False, "Suspend it also while containers run.", "true", Effect.LIVE
    ),
    Setting(
        "shares.folders", SHARES, [shares.USUAL],
        "Folders of this computer that containers may mount, with all below them; `:ro` for reading only, "
        "and `usual` is your home and the temporary folders. Keys and logins in them (~/.ssh and the like) "
        "are kept back unless they are named here themselves.",
        "usual,/data:ro", Effect.LIVE,
    ),
    Setting(
        "shares.owner", OWNER, "keep",
        "keep: containers see the owners and modes that they set, and on this computer the files are yours; "
        "user: containers see yours.",
        "user", Effect.LIVE,
    ),
    Setting(
        "shares.locks", LOCKS, "guest",
        "Whom a file's lock keeps away. guest: containers each other; host: also programs of this computer, "
        "for a database that both open, and each lock takes the way to it.",
        "host",
    ),
    Setting("image", TEXT, "", "A guest image's id; empty is the newest there is.", '""'),
    Setting(
        "registry.mirrors", MIRRORS, [], "Mirrors of Docker Hub, asked in this order.",
        "https://mirror.example.com", Effect.LIVE,
    ),
    Setting(
        "registry.insecure", REGISTRIES, [],
        "Registries without TLS, or with a certificate nobody vouches for.",
        "registry.example.com:5000", Effect.LIVE,
    ),
    Setting(
        "proxy.http", PROXY, "",
        "The proxy of the engine's pulls over HTTP. None unless it is set: the environment of whichever "
        "shell started Proa is not asked. A proxy on this computer (localhost) is reached too. "
        "`-` as the value reads it from standard input, so that a password is in no list of processes.",
        "http://proxy.example.com:3128",
    ),
    Setting(
        "proxy.https", PROXY, "", "The proxy of the engine's pulls over HTTPS, as proxy.http.",
        "http://proxy.example.com:3128",
    ),
    Setting(
        "proxy.no", HOSTS, [], "Hosts, domains and networks that are reached without the proxy.",
        "localhost,.example.com,10.0.0.0/8",
    ),
    Setting(
        "certificates", PATHS, [], "PEM files of authorities that the engine trusts besides the usual ones.",
        "/home/me/company-ca.pem",
    ),
    Setting(
        "host_certificates", BOOLEAN, True,
        "Trust the authorities that were added to this computer too (on Linux: what is in "
        "/usr/local/share/ca-certificates or /etc/pki/ca-trust/source/anchors).",
        "false",
    ),
)  # fmt: skip
BY_KEY = {setting.key: setting for setting in SETTINGS}


def find(key: str) -> Setting:
    """The setting that `key` names; every `daemon.KEY` is one. Raises ProaError `unknown-setting`."""
    if key in BY_KEY:
        return BY_KEY[key]
    if key.startswith(DAEMON):
        return _of_daemon(key)
    near = difflib.get_close_matches(key, BY_KEY, n=3)
    raise ProaError(
        "unknown-setting",
        f"there is no setting {key[:60]!r}",
        hint=f"did you mean {' or '.join(near)}?" if near else "see all: proa config list",
        usage=True,
    )


def _of_daemon(key: str) -> Setting:
    parts = key.split(".")[1:]
    if not all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}", part) for part in parts) or len(parts) > MOST_DEPTH:
        raise ProaError(
            "unknown-setting",
            f"{key[:60]!r} is no key of daemon.json",
            hint="for example: proa config set daemon.log-opts.max-size 10m",
            usage=True,
        )
    if parts[0] in _OURS:
        raise _is_ours(parts[0])
    effect = Effect.LIVE if parts[0] in RELOADABLE else Effect.RESTART
    return Setting(key, JSON, None, "A key of the engine's daemon.json.", "VALUE", effect)


def _is_ours(key: str) -> ProaError:
    return ProaError(
        "setting-not-yours",
        f"daemon.{key} cannot be set",
        why="it is Proa's own: another value would cut the engine off or lose its data",
        usage=True,
    )


def read(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a `machine.toml` sets, checked: dotted key -> value, and `daemon` -> its whole table.

    Raises ProaError `bad-setting`, `unknown-setting`, `setting-not-yours`.
    """
    found: dict[str, Any] = {}
    for key, value in _leaves(document):
        if key == "daemon":
            if not isinstance(value, dict):
                raise ProaError(
                    "bad-setting", "daemon cannot be set so", why="daemon must be a table", usage=True
                )
            if ours := sorted(_OURS.intersection(value)):
                raise _is_ours(ours[0])
            found[key] = Setting(key, JSON, {}, "", "").check(value)
        else:
            found[key] = find(key).check(value)
    return found


def _leaves(document: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        key = before + name
        if (
            isinstance(value, dict)
            and key != "daemon"
            and any(known.startswith(f"{key}.") for known in BY_KEY)
        ):
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


# -- showing ---------------------------------------------------------------------------------------

_PASSWORD = re.compile(r"(//)[^/@\s\"']*@")


def mask(text: str) -> str:
    """`text` with the user and password of every URL in it hidden."""
    return _PASSWORD.sub(r"\1***@", text)


def masked(value: Any) -> Any:
    """A value with the same hidden in every text of it."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, list):
        return [masked(item) for item in value]
    if isinstance(value, dict):
        return {key: masked(item) for key, item in value.items()}
    return value


def show(value: Any) -> str:
    """A value on one line, in the form that `proa config set` takes."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) and "," not in item for item in value):
        return ",".join(value)
    return json.dumps(value, ensure_ascii=False)


def document() -> str:
    """docs/settings.md; made anew by: .venv/bin/python -m proa.model.settings > docs/settings.md"""
    lines = [
        "# Settings of a machine",
        "",
        "<!-- Made from host/proa/model/settings.py, whose end says how. -->",
        "",
        "`proa config list | get KEY | set KEY VALUE | unset KEY`, with `--machine NAME` for another machine",
        "than `default`. They are kept in the machine's `machine.toml`, which may be edited by hand too;",
        "comments survive. *live* is taken over by a running engine at once, *restart* takes effect with",
        "`proa restart`.",
        "",
        "| key | type | default | effect | what it is |",
        "|---|---|---|---|---|",
    ]
    for setting in SETTINGS:
        default = show(setting.default)
        lines.append(
            f"| `{setting.key}` | {setting.kind.name} | {f'`{default}`' if default else 'none'} "
            f"| {setting.effect} | {setting.help} |"
        )
    live = ", ".join(f"`{key}`" for key in sorted(RELOADABLE))
    ours = ", ".join(f"`{key}`" for key in sorted(_OURS))
    lines += [
        "| `daemon.KEY` | a value of daemon.json | none | see below | Any key of the engine's daemon.json. |",
        "",
        "Keys of daemon.json may be nested (`daemon.log-opts.max-size`), and their values are JSON or plain",
        "text (`'\"3\"'` is the text 3). The engine checks them before they are kept, or at the next start",
        f"where the machine does not run. Taken over live: {live}. Proa's own, and refused: {ours}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(document(), end="")
