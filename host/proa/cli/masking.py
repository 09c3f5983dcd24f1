"""Takes secrets out of what a person may send to others. Pure: text and plain data in, the same masked out.

It rather masks a harmless word than leave a secret: what a secret could look like is masked everywhere.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote, urlsplit

MASKED = "***"
LEAST_LITERAL = 6  # characters; a shorter known secret would mask half of every text

_SECRET_WORDS = (
    r"passw(?:or)?d|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|link[_-]?key"
    r"|credential|auth|cookie|session[_-]?id|signature"
)
_SECRET_NAME = re.compile(rf"(?:{_SECRET_WORDS})", re.IGNORECASE)
# Names that look like one and are none, which a reader of the bundle needs.
_HARMLESS_NAMES = frozenset({"indexserveraddress", "authorizationplugins", "authorization", "authors"})

_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.S
)
# A log that was cut may begin in the middle of a key.
_END_OF_KEY = re.compile(
    r"(?:^[^\S\n]*[A-Za-z0-9+/=]{16,}[^\S\n]*\n){1,200}[^\S\n]*-----END [A-Z0-9 ]*PRIVATE KEY-----", re.M
)
_USER_IN_URL = re.compile(
    r"((?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/\"'<>@:]*:[^\s\"'<>]*|[^\s/\"'<>]*)@(?=[^\s@]|$)"
)
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization|x-registry-(?:auth|config)|(?:set-)?cookie)(\\*[\"']?\s*[:=]\s*)[^\r\n]+",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b(bearer|basic|negotiate|digest)(\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_NAMED = re.compile(
    rf"((?<![\w.-])(?:[\w.-]*?(?:{_SECRET_WORDS})[\w.-]*)\\*[\"']?\s*[=:]\s*)"
    r"(\\+\"(?:.*?)\\+\"|\"(?:[^\"\\]|\\.)*\"?|'[^'\n]*'?|\[[^\]\n]*\]?|[^\s,;&\"'\\}\]]+)",
    re.IGNORECASE,
)
_OPTION = re.compile(
    rf"((?<!\S)--?[\w-]*(?:{_SECRET_WORDS})[\w-]*\s+)(\"[^\"\n]*\"|'[^'\n]*'|[^\s-]\S*)", re.IGNORECASE
)
# Tokens that say by their form that they are one: JSON web tokens, and those of well-known services.
_TOKEN = re.compile(
    r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?|\bgh[a-z]_[A-Za-z0-9]{20,}"
    r"|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}|\bAKIA[0-9A-Z]{16}\b|\bSWMTKN-[\w-]{20,}|\bdckr_[a-z]+_[\w-]{16,}"
)

# Lists of NAME=VALUE, or tables of them.
_PAIRS = frozenset({"env", "environment"})
# Tables whose values are the user's own words.
_VALUES = frozenset({"labels", "options", "driveropts", "auths", "httpheaders"})
# What is run: its first word says enough.
_WORDS = frozenset({"command", "cmd", "entrypoint", "args", "path"})


def looks_secret(name: str) -> bool:
    """True for a key, variable or option whose value is not for others."""
    return name.lower() not in _HARMLESS_NAMES and _SECRET_NAME.search(name) is not None


class Mask:
    """Masks by form, and wherever they stand the secrets that are `known`."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        found = {part for secret in known for part in _forms(secret) if len(part) >= LEAST_LITERAL}
        longest_first = sorted(found, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, text: str) -> str:
        """A log or any other text."""
        if self._known is not None:
            text = self._known.sub(MASKED, text)
        text = _PRIVATE_KEY.sub(f"{MASKED} (a private key)", text)
        text = _END_OF_KEY.sub(f"{MASKED} (the end of a private key)", text)
        text = _USER_IN_URL.sub(rf"\1{MASKED}@", text)
        text = _HEADER.sub(rf"\1\2{MASKED}", text)
        text = _SCHEME.sub(rf"\1\2{MASKED}", text)
        text = _TOKEN.sub(MASKED, text)
        text = _NAMED.sub(rf"\1{MASKED}", text)
        return _OPTION.sub(rf"\1{MASKED}", text)

    def data(self, value: object, name: str = "") -> object:
        """Plain data (as of JSON or TOML) that stood under the key `name`."""
        key = name.lower()
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, dict):
            whole = key in _PAIRS or key in _VALUES or looks_secret(name)
            return {
                self.text(str(inner)): MASKED if whole else self.data(item, str(inner))
                for inner, item in value.items()
            }
        if looks_secret(name):
            return MASKED if value else value
        if isinstance(value, list):
            return self._list(value, key, name)
        return self._scalar(value, key)

    def _scalar(self, value: object, key: str) -> object:
        if isinstance(value, (int, float)):
            return value
        return self._first_word(str(value)) if key in _WORDS else self.text(str(value))

    def _list(self, items: list[object], key: str, name: str) -> object:
        if key in _PAIRS or key in _VALUES:
            return [f"{str(item).partition('=')[0]}={MASKED}" for item in items]
        if key in _WORDS and items:
            return [self.text(str(items[0])), *([MASKED] if len(items) > 1 else [])]
        return [self.data(item, name) for item in items]

    def _first_word(self, text: str) -> str:
        first, space, _ = text.partition(" ")
        return self.text(first) + (f" {MASKED}" if space else "")


def secrets_in(value: object, name: str = "") -> Iterator[str]:
    """Every secret that plain data holds: values under telling keys, and users and passwords in URLs."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from secrets_in(item, name if name.lower() == "auths" else str(inner))
    elif isinstance(value, list):
        for item in value:
            yield from secrets_in(item, name)
    elif isinstance(value, str):
        if looks_secret(name):
            yield value
        yield from _password_of(value)


def _password_of(url: str) -> Iterator[str]:
    if "://" not in url or "@" not in url:
        return
    try:
        password = urlsplit(url).password
    except ValueError:
        return
    if password:
        yield password
        yield unquote(password)


def _forms(secret: str) -> Iterator[str]:
    """The secret as it is, and what it holds where it is a registry's auth (`user:password` in base64)."""
    yield secret
    try:
        decoded = base64.b64decode(secret, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return
    if ":" in decoded and decoded.isprintable():
        yield decoded
        yield decoded.partition(":")[2]
