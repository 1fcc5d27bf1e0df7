"""Neighbours: the certification patients whose score lies nearest to a case's, and how many of them had the finding.

Why scores and not features: a release keeps the scores its certificate counted, and no image or feature of anybody. A
similar score is not a similar image, and whoever shows these numbers says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.domain.guards import is_share
from pipeline.domain.ladder import clopper_pearson_upper

NEAREST = 20  #: patients that are shown; more where several lie equally far away
_MISSED = 0.05  #: chance that the interval, both ends together, misses the rate


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The nearest certification patients of a score; `low` and `high` are the exact 95 % interval of their rate."""

    score: float
    nearest: tuple[tuple[float, bool], ...]  #: score and whether the finding was there, by rising score
    low: float
    high: float
    certified: int  #: all certification patients with a score

    @property
    def count(self) -> int:
        """How many patients these are."""
        return len(self.nearest)

    @property
    def with_finding(self) -> int:
        """How many of them had the finding."""
        return sum(found for _, found in self.nearest)

    @property
    def span(self) -> tuple[float, float]:
        """Their lowest and their highest score."""
        return self.nearest[0][0], self.nearest[-1][0]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredCases:
    """Calibrated route scores (N,), rising, of the certify split, one per patient, and whether each had the finding."""

    scores: NDArray[np.float64]
    truths: NDArray[np.bool_]

    @classmethod
    def of(cls, scores: ArrayLike, truths: ArrayLike) -> ScoredCases:
        """Those with a score, ordered by score and truth, so that nothing tells which patient a row was."""
        values, found = np.asarray(scores, dtype=np.float64), np.asarray(truths).astype(np.bool_)
        defined = np.isfinite(values)
        values, found = values[defined], found[defined]
        order = np.lexsort((found, values))
        return cls(scores=values[order], truths=found[order])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The content as arrays; the inverse of `from_arrays`."""
        return {"scores": self.scores, "truths": self.truths.astype(np.uint8)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ScoredCases:
        """The cases in `arrays`; raises ValueError unless they are rising shares with one truth each."""
        if set(arrays) != {"scores", "truths"}:
            raise ValueError("scored cases are the arrays scores and truths")
        scores, truths = arrays["scores"], arrays["truths"]
        if scores.ndim != 1 or scores.shape != truths.shape or not np.isin(truths, (0, 1)).all():
            raise ValueError("each scored case has one score and one truth, 0 or 1")
        if not all(is_share(float(score)) for score in scores) or (np.diff(scores) < 0).any():
            raise ValueError("scores are rising numbers from 0 to 1")
        return cls(scores=scores.astype(np.float64), truths=truths.astype(np.bool_))

    def nearest(self, score: float, count: int = NEAREST) -> Neighbours | None:
        """The `count` cases nearest to `score`, with all that lie as near as the last of them; None where there is none.

        All or none of those equally far away are taken: whichever were picked would tilt the rate.
        """
        if not len(self.scores) or not math.isfinite(score):
            return None
        distances = np.abs(self.scores - score)
        near = distances <= np.sort(distances)[min(count, len(distances)) - 1]
        shown = tuple(zip(self.scores[near].tolist(), self.truths[near].tolist(), strict=True))
        low, high = interval(sum(found for _, found in shown), len(shown))
        return Neighbours(score=score, nearest=shown, low=low, high=high, certified=len(self.scores))


def interval(events: int, cases: int) -> tuple[float, float]:
    """The exact (Clopper-Pearson) two-sided 95 % interval of a rate."""
    half = _MISSED / 2.0
    return 1.0 - clopper_pearson_upper(cases - events, cases, half), clopper_pearson_upper(events, cases, half)
