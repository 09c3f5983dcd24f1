"""A measured figure, the list of them on disk, and the table that a person reads. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One number beside what it is compared with.

    `budget` bounds `ratio` where there is a baseline, else `value`; `floor` says that it bounds from below.
    """

    name: str
    value: float
    unit: str
    budget: float
    baseline: float | None = None
    floor: bool = False

    @property
    def ratio(self) -> float | None:
        return self.value / self.baseline if self.baseline else None

    @property
    def ok(self) -> bool:
        bounded = self.value if self.ratio is None else self.ratio
        return bounded >= self.budget if self.floor else bounded <= self.budget

    def to_json(self) -> dict[str, Any]:
        content = asdict(self) | {"ratio": self.ratio, "ok": self.ok}
        return {key: _short(value) for key, value in content.items()}


def _short(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def table(figures: Iterable[Figure]) -> str:
    """Aligned columns, the first line their heads."""
    rows = [("figure", "value", "baseline", "ratio", "budget", "")]
    for figure in figures:
        sign = ">=" if figure.floor else "<="
        baseline = "" if figure.baseline is None else f"{figure.baseline:.4g} {figure.unit}"
        ratio = "" if figure.ratio is None else f"{figure.ratio:.3f}"
        unit = "" if figure.baseline is not None else f" {figure.unit}"
        verdict = "ok" if figure.ok else "MISSED"
        value = f"{figure.value:.4g} {figure.unit}"
        rows.append((figure.name, value, baseline, ratio, f"{sign} {figure.budget:g}{unit}", verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def paired(rounds: int, *measures: Callable[[], float]) -> tuple[list[float], ...]:
    """Each measure once a round, in turn, after one round that does not count."""
    found: tuple[list[float], ...] = tuple([] for _ in measures)
    for number in range(rounds + 1):
        for measure, values in zip(measures, found, strict=True):
            value = measure()
            if number:
                values.append(value)
    return found


def median_difference(first: Sequence[float], second: Sequence[float]) -> float:
    """The median of what `first` takes more than `second`, pair by pair."""
    return statistics.median(a - b for a, b in zip(first, second, strict=True))
