"""What the bench says of its figures."""

from __future__ import annotations

from tests.bench.figures import Figure, median_difference, paired, table


def test_a_ratio_is_held_against_the_budget_where_there_is_a_baseline() -> None:
    assert Figure("start", 11, "s", 0.55, 20).ok
    assert not Figure("start", 11.1, "s", 0.55, 20).ok
    assert Figure("save", 86, "MB/s", 0.85, 100, floor=True).ok
    assert not Figure("save", 84, "MB/s", 0.85, 100, floor=True).ok


def test_a_value_is_held_against_the_budget_where_there_is_none() -> None:
    assert Figure("status", 150, "ms", 150).ok
    assert not Figure("status", 151, "ms", 150).ok


def test_json_has_the_names_of_the_format() -> None:
    content = Figure("start", 1 / 3, "s", 0.55, 1.0).to_json()
    assert content == {
        "name": "start",
        "value": 0.33333,
        "unit": "s",
        "baseline": 1.0,
        "ratio": 0.33333,
        "budget": 0.55,
        "floor": False,
        "ok": True,
    }


def test_the_table_shows_what_was_missed() -> None:
    lines = table([Figure("start", 30, "s", 0.55, 40), Figure("status", 100, "ms", 150)]).splitlines()
    assert len(lines) == 3 and lines[0].startswith("figure")
    assert lines[1].split() == ["start", "30", "s", "40", "s", "0.750", "<=", "0.55", "MISSED"]
    assert lines[2].split() == ["status", "100", "ms", "<=", "150", "ms", "ok"]


def test_measures_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []

    def first() -> float:
        order.append("a")
        return len(order)

    def second() -> float:
        order.append("b")
        return len(order)

    assert paired(2, first, second) == ([3, 5], [4, 6])
    assert "".join(order) == "ababab"


def test_differences_are_taken_pair_by_pair() -> None:
    assert median_difference([10, 50, 12], [1, 40, 2]) == 10
