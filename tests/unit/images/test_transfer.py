from __future__ import annotations

import pytest

from proa.images.transfer import FORMAT, Going, Kept, ask, check_url, judge, shown
from proa.model.errors import ProaError

URL = "https://example.com/i.tar"


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "https://example.com:8443/i.tar?t=1",
        "http://127.0.0.1:80/x",
        "http://[::1]/x",
        "http://localhost:1/x",
    ],
)
def test_addresses_that_are_taken(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "", "image.tar", "file:///etc/passwd", "ftp://example.com/x", "http://example.com/x",
        "http://127.0.0.1.example.com/x", "http://0.0.0.0/x", "http://10.0.0.1/x", "https:///x",
        "https://user:secret@example.com/x", "https://example.com:x/", "https://[/",
        "https://example.com/a b",         "https://example.com/\r\nX: y", "https://exämple.com/x",
    ],
)  # fmt: skip
def test_addresses_that_are_not(url: str) -> None:
    with pytest.raises(ProaError) as caught:
        check_url(url)
    assert caught.value.code == "bad-url" and caught.value.usage


def test_a_query_is_not_shown() -> None:
    assert shown(f"{URL}?token=secret") == URL


def test_only_what_can_be_proved_is_gone_on_with() -> None:
    assert "Range" not in ask(0, Kept(FORMAT, URL, '"x"'))
    assert "Range" not in ask(5, None)
    assert "Range" not in ask(5, Kept(FORMAT, URL, ""))
    assert ask(5, Kept(FORMAT, URL, '"x"'))["Range"] == "bytes=5-"


def test_the_date_proves_where_there_is_no_strong_tag() -> None:
    date = "Wed, 25 Nov 2026 04:00:00 GMT"
    assert judge(URL, 200, {"Last-Modified": date, "ETag": 'W/"x"'}, 0, None) == Going(0, None, date)
    kept = Kept(FORMAT, URL, date)
    going = judge(URL, 206, {"Content-Range": "bytes 5-9/*", "Last-Modified": date}, 5, kept)
    assert going == Going(5, None, date)
