from __future__ import annotations

from proa.model.errors import ProaError
from proa.model.problem import Problem


def test_an_error_is_three_lines_whatever_it_carries() -> None:
    error = ProaError("x-y", "it failed\x1b[2J", why="first\nsecond", hint="do this", log=("a",) * 50)
    assert len(error.lines) == 3
    assert all(line.isprintable() for line in error.lines)
    assert error.lines[0].startswith("proa: it failed") and error.lines[0].endswith("[x-y]")


def test_a_problem_carries_an_error_there_and_back() -> None:
    error = ProaError("c", "m", why="w", hint="h", layer="kernel", log=("l",), usage=True)
    assert vars(Problem.of(error).error()) == vars(error)
