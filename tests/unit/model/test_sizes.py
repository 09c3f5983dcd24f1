from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proa.model.errors import ProaError
from proa.model.sizes import GIB, MIB, parse_duration, parse_size, show_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 * GIB),
        ("2g", 2 * GIB),
        (" 512 MiB ", 512 * MIB),
        ("1024", 1024),
        ("1.5GiB", 3 * GIB // 2),
        ("1kB", 1000),
    ],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1GiB", "0", "2 parsecs", "1e9", "9" * 40 + "TiB", "1..2g", "nan", "inf"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ProaError) as caught:
        parse_size(text)
    assert caught.value.code == "bad-size"


@given(st.integers(min_value=1, max_value=(1 << 50)))
def test_what_is_shown_is_read_back(size: int) -> None:
    assert parse_size(show_size(size)) == size


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30.0), (" 5M ", 300.0), ("2h", 7200.0), ("off", None)])
def test_times_as_people_write_them(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "0s", "-1m", "1.5h", "5", "5 minutes", "never", "9" * 40 + "s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ProaError) as caught:
        parse_duration(text)
    assert caught.value.code == "bad-duration"
