"""Class-conditional (Mondrian) conformal sets: which classes a case may belong to, each with its own error limit.

p_c = (1 + calibration cases of class c whose probability of c is at most this case's) / (n_c + 1). A class is excluded
when p_c <= alpha_c, which happens to a case of class c with probability at most alpha_c (Vovk, Gammerman and Shafer 2005).
That is an average over calibrations; with `delta` the cut is the order statistic that keeps the limit with confidence
1 - delta. A case is handled without a reader only when one class remains and that class may be: an empty set conforms
to nothing, which is itself a reason to ask. Ties are never broken by lot, so that a decision recomputes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.domain.order_statistic import most_misses

Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]


class Verdict(StrEnum):
    """What a conformal set allows."""

    ALONE = "alone"  #: One class remains and it may be handled without a reader.
    READER = "reader"  #: One class remains that a reader must see.
    SEVERAL = "several"  #: More than one class remains.
    NOTHING = "conforms_to_nothing"  #: No class remains: unlike every class of the calibration cases.


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassConformal:
    """Rising calibration probabilities of each class among its own cases, and the largest excluded error per class.

    `scores[c]` (n_c,) may be empty: such a class is never excluded.
    """

    scores: tuple[Floats, ...]
    alpha: tuple[float, ...]
    delta: float | None = None

    def __post_init__(self) -> None:
        if len(self.scores) != len(self.alpha) or not all(0.0 < a < 1.0 for a in self.alpha):
            raise ValueError("every class needs a limit between 0 and 1")

    @classmethod
    def fit(
        cls, probabilities: ArrayLike, members: ArrayLike, alpha: Sequence[float], *, delta: float | None = None
    ) -> ClassConformal:
        """From calibrated probabilities (N, C) and which case is of which class (N, C).

        One True per row or, for labels that may be present together, any number; NaN (unknown) counts for no class.
        Raises ValueError on a mismatch.
        """
        p, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(members, dtype=np.float64)
        if p.ndim != 2 or p.shape != truth.shape or not np.isfinite(p).all():
            raise ValueError(f"needs finite (N, C) probabilities and memberships, got {p.shape} and {truth.shape}")
        scores = tuple(np.sort(p[truth[:, c] == 1.0, c]) for c in range(p.shape[1]))
        return cls(scores=scores, alpha=tuple(alpha), delta=delta)

    def p_values(self, probabilities: ArrayLike) -> Floats:
        """p-value of every class (N, C) for probabilities (N, C); 1 for a class without calibration cases."""
        p = self._checked(probabilities)
        found = [(1.0 + np.searchsorted(s, p[:, c], side="right")) / (len(s) + 1.0) for c, s in enumerate(self.scores)]
        return np.stack(found, axis=1)

    def sets(self, probabilities: ArrayLike) -> Truths:
        """Which classes remain (N, C)."""
        if self.delta is None:
            return np.asarray(self.p_values(probabilities) > np.array(self.alpha))
        p = self._checked(probabilities)
        return np.stack([p[:, c] >= self._cut(c) for c in range(p.shape[1])], axis=1)

    def verdicts(self, probabilities: ArrayLike, alone: Sequence[int]) -> tuple[Verdict, ...]:
        """What each case's set allows, where the classes in `alone` may be handled without a reader."""
        return tuple(_verdict(np.flatnonzero(kept), set(alone)) for kept in self.sets(probabilities))

    def _cut(self, c: int) -> float:
        """The lowest probability at which class `c` stays, with confidence 1 - delta; -inf where too few cases are."""
        allowed = most_misses(len(self.scores[c]), self.alpha[c], self.delta or 0.0)
        return -math.inf if allowed is None else float(self.scores[c][allowed])

    def _checked(self, probabilities: ArrayLike) -> Floats:
        p = np.asarray(probabilities, dtype=np.float64)
        if p.ndim != 2 or p.shape[1] != len(self.scores) or not np.isfinite(p).all():
            raise ValueError(f"needs finite (N, {len(self.scores)}) probabilities, got shape {p.shape}")
        return p


def _verdict(kept: NDArray[np.intp], alone: set[int]) -> Verdict:
    if len(kept) == 0:
        return Verdict.NOTHING
    if len(kept) > 1:
        return Verdict.SEVERAL
    return Verdict.ALONE if int(kept[0]) in alone else Verdict.READER


def prediction_sets(calibration: ArrayLike, labels: ArrayLike, probabilities: ArrayLike, alpha: float) -> Truths:
    """Marginal sets (N, C) for display: classes whose probability is at least 1 - q (Sadinle et al. 2019).

    q is the ceil((n + 1)(1 - alpha))-th smallest 1 - p of the true class; every class stays where n is too small.
    """
    p, truth = np.asarray(calibration, dtype=np.float64), np.asarray(labels)
    n = len(truth)
    rank = math.ceil((n + 1) * (1.0 - alpha))
    shown = np.asarray(probabilities, dtype=np.float64)
    if rank > n:
        return np.ones(shown.shape, dtype=np.bool_)
    q = float(np.sort(1.0 - p[np.arange(n), truth])[rank - 1])
    return np.asarray(1.0 - shown <= q)
