"""The pure part of a download: addresses, requests, and what an answer means (RFC 9110)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import msgspec

from proa.model.errors import ProaError

FORMAT = 1
MOST_REDIRECTS = 5
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)
_AGAIN = (408, 425, 429, 500, 502, 503, 504)  # the server, or what stands before it, may think better of it


class Kept(msgspec.Struct, frozen=True):
    """NAME.json beside a half download, format 1: what proves that the rest belongs to it."""

    format: int
    url: str
    validator: str  # a strong ETag or a date of Last-Modified; empty: it cannot be gone on with


@dataclass(frozen=True)
class Going:
    """An answer that brings bytes: from `offset` on, of `total` in all where the server says so."""

    offset: int
    total: int | None
    validator: str


class CutError(Exception):
    """The transfer broke off, for a reason that may pass; what came is kept."""


def check_url(url: str) -> str:
    """Raises ProaError `bad-url` unless it is https, or http to this very computer."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise _bad(url, str(error)) from error
    if not url.isascii() or not url.isprintable() or " " in url:
        raise _bad(url, "it has characters that an address cannot have")
    if parts.scheme not in ("https", "http") or not host:
        raise _bad(url, "images are fetched over https")
    if parts.scheme == "http" and not _is_loopback(host):
        raise _bad(url, "over plain http anybody on the way can hold it back; it is taken from loopback only")
    if parts.username is not None or parts.password is not None:
        raise _bad(url, "it carries a user's name or password")
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shown(url: str) -> str:
    """The address for people and logs: its query may be a secret."""
    return url.partition("?")[0][:200]


def redirected(url: str, location: str) -> str:
    """Where a redirect leads. Raises ProaError `fetch-redirected` where that is another server.

    A server may not make this computer ask others: its own network, say, that the server cannot reach.
    """
    target = location
    try:
        target = urljoin(url, location)
        here, there = urlsplit(url), urlsplit(target)
        same = (here.scheme, here.hostname, here.port) == (there.scheme, there.hostname, there.port)
    except ValueError:
        same = False
    if not location or not same:
        raise ProaError(
            "fetch-redirected",
            f"{shown(url)} cannot be fetched",
            why=f"it leads to another server: {shown(target)}",
            hint="if you trust that one, fetch from there",
        )
    return check_url(target)


def ask(have: int, kept: Kept | None) -> dict[str, str]:
    """The headers of a request when `have` bytes are there."""
    headers = {"Accept-Encoding": "identity"}
    if have and kept and kept.validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": kept.validator}
    return headers


def judge(url: str, status: int, headers: Mapping[str, str], have: int, kept: Kept | None) -> Going:
    """What the answer to `ask` brings. Raises CutError, ProaError `fetch-refused`, `fetch-answer-wrong`."""
    if status in _AGAIN:
        raise CutError(f"the server answered {status}")
    if status == 416:
        # What is here is no beginning of what is there: begin anew.
        raise CutError("the server has less than was fetched already")
    if status not in (200, 206):
        raise ProaError(
            "fetch-refused",
            f"{shown(url)} cannot be fetched",
            why=f"the server answered {status}",
            hint="look whether the address is right",
        )
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise answer_wrong(url, "the server packed it once more, unasked")
    if status == 200:
        return Going(0, _number(headers.get("Content-Length")), _validator(headers))
    found = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if not have or kept is None or found is None:
        raise answer_wrong(url, "it sent a part that was not asked for")
    first, last = int(found[1]), int(found[2])
    total = None if found[3] == "*" else int(found[3])
    told = _number(headers.get("Content-Length"))
    if first != have or last < first or (told is not None and told != last - first + 1):
        raise answer_wrong(url, "it sent another part than was asked for")
    if total is not None and last + 1 > total:
        raise answer_wrong(url, "its words on the length contradict each other")
    validator = _validator(headers)
    if validator and validator != kept.validator:
        raise answer_wrong(url, "it sent a part of another version than was asked for")
    return Going(have, total, kept.validator)


def _validator(headers: Mapping[str, str]) -> str:
    """What may stand in If-Range: a strong ETag, or else the date."""
    etag = headers.get("ETag", "").strip()
    if etag.startswith('"') and etag.endswith('"') and 2 < len(etag) < 200 and etag.isprintable():
        return etag
    date = headers.get("Last-Modified", "").strip()
    return date if 0 < len(date) < 60 and date.isprintable() and not date.startswith('"') else ""


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 19 else None


def answer_wrong(url: str, why: str) -> ProaError:
    return ProaError(
        "fetch-answer-wrong",
        f"{shown(url)} cannot be fetched",
        why=why,
        hint="nothing of it was kept; try again, or another server",
    )


def _bad(url: str, why: str) -> ProaError:
    return ProaError(
        "bad-url",
        f"{shown(url)!r} is no address to fetch an image from",
        why=why,
        hint="for example: proa image fetch https://example.com/proa-image-amd64.tar",
        usage=True,
    )
