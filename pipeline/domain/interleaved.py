"""Ratios between pieces of work timed in turns in one process: medians, with the spread of the single repetitions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure: how long `name` took, in units of `baseline`; `low` and `high` are the extremes of its repetitions."""

    name: str
    baseline: str
    ratio: float
    low: float
    high: float
    reach: float | None = None  #: what was aimed at

    def as_dict(self) -> dict[str, Any]:
        """JSON-able content."""
        return {
            "name": self.name,
            "ratio": self.ratio,
            "spread": [self.low, self.high],
            "baseline": self.baseline,
            "reach": self.reach,
        }


def seconds(works: Sequence[Work], repetitions: int) -> list[list[float]]:
    """The times of each work, all of them once per repetition, so that a busy moment meets all."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(repetitions):
        for place, work in enumerate(works):
            started = time.perf_counter()
            work()
            taken[place].append(time.perf_counter() - started)
    return taken


def ratios(
    baseline: tuple[str, Work], others: Sequence[tuple[str, Work]], repetitions: int, reach: Mapping[str, float]
) -> list[Row]:
    """One row per other work, against the baseline's time in the same repetition; all are warmed up once.

    `reach` says by name what was aimed at.
    """
    for _, work in (baseline, *others):
        work()
    base, *rest = seconds([baseline[1], *(work for _, work in others)], repetitions)
    rows = []
    for (name, _), taken in zip(others, rest, strict=True):
        each = [one / other for one, other in zip(taken, base, strict=True)]
        ratio = statistics.median(taken) / statistics.median(base)
        rows.append(
            Row(name=name, baseline=baseline[0], ratio=ratio, low=min(each), high=max(each), reach=reach.get(name))
        )
    return rows


def as_text(rows: Sequence[Row]) -> str:
    """The rows as lines: ratio, spread, what was aimed at, name and baseline."""
    lines = []
    for row in rows:
        aim = "" if row.reach is None else f" (aim {row.reach:.2f})"
        lines.append(f"{row.ratio:8.2f}x  [{row.low:.2f} to {row.high:.2f}]{aim}  {row.name}, against {row.baseline}")
    return "\n".join(lines) + "\n"
