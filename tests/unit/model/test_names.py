from __future__ import annotations

import pytest

from proa.model.errors import ProaError
from proa.model.names import MAX_NAME, check_name


@pytest.mark.parametrize("name", ["default", "a", "0", "work-2", "my.machine_1", "x" * MAX_NAME])
def test_good_names_are_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a/b",
        "../x",
        ".",
        "..",
        ".hidden",
        "-rf",
        "a b",
        "a'b",
        'a"b',
        "a\nb",
        "$(id)",
        "A",
        "é",
        "x" * 300,
        "a\0",
    ],
)
def test_bad_names_are_refused_in_three_plain_lines(name: str) -> None:
    with pytest.raises(ProaError) as caught:
        check_name(name)
    error = caught.value
    assert (error.code, error.usage) == ("bad-name", True)
    assert len(error.lines) == 3
    assert all(line.isprintable() and len(line) < 200 for line in error.lines)
