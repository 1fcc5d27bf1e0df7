"""Several risks certified at once on one ladder of thresholds, without paying for their number.

A rung is accepted when every risk is below its limit; the p-value of that is the largest of the risks' p-values
(intersection-union), so that no correction is needed (Angelopoulos et al. 2021, arXiv:2110.01052). Counts are integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from pipeline.domain.ladder import climb, exact_p_value, ladder_from
from pipeline.errors import HaltPipeline

Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]


class Kind(StrEnum):
    """What is counted at a threshold t, of cases with score s."""

    MISSED = "missed"  #: s <= t among cases with the finding: lost findings, whatever the prevalence.
    OMITTED = "omitted"  #: the finding among cases with s <= t: moves with the prevalence.
    JOINT = "joint"  #: the finding and s <= t among all cases: misses per study.
    DEFERRED = "deferred"  #: s > t among all cases: the reading it costs.


@dataclass(frozen=True, kw_only=True)
class Risk:
    """One rate and the limit it must stay below."""

    kind: Kind
    alpha: float

    def count(self, threshold: float, scores: Floats, positive: Truths) -> tuple[int, int]:
        """Events and cases at risk at `threshold`, for scores (N,) and truths (N,)."""
        low = scores <= threshold
        if self.kind is Kind.MISSED:
            return int((low & positive).sum()), int(positive.sum())
        if self.kind is Kind.OMITTED:
            return int((low & positive).sum()), int(low.sum())
        if self.kind is Kind.JOINT:
            return int((low & positive).sum()), len(scores)
        return int((~low).sum()), len(scores)


@dataclass(frozen=True, kw_only=True)
class JointRung:
    """One threshold with (events, cases at risk) per risk and the largest p-value."""

    threshold: float
    counts: tuple[tuple[int, int], ...]
    p: float


@dataclass(frozen=True, kw_only=True)
class JointCertificate:
    """The rungs in the order of testing and those that hold for every risk at once; none is an answer too."""

    risks: tuple[Risk, ...]
    delta: float
    rungs: tuple[JointRung, ...]
    start: int
    certified: tuple[int, ...]  #: places of the certified rungs, rising

    @property
    def threshold(self) -> float | None:
        """The highest certified threshold, or None."""
        return self.rungs[self.certified[-1]].threshold if self.certified else None


def certify_several(
    tune_scores: Floats,
    tune_positive: Truths,
    scores: Floats,
    positive: Truths,
    risks: Sequence[Risk],
    *,
    delta: float,
) -> JointCertificate:
    """Climb from the rung that the tune split promises most of, as long as every risk holds; one case per patient.

    Scores are +inf for gated cases. Raises HaltPipeline without a risk, or with a limit outside (0, 1).
    """
    if not risks or not all(0.0 < risk.alpha < 1.0 for risk in risks) or not 0.0 < delta < 1.0:
        raise HaltPipeline("certificate: every risk needs a limit between 0 and 1; correct the limits")
    rungs = tuple(_rung(float(t), scores, positive, risks) for t in ladder_from(np.asarray(tune_scores)))
    if not rungs:
        return JointCertificate(risks=tuple(risks), delta=delta, rungs=(), start=0, certified=())
    predicted = [_predicted(r.threshold, tune_scores, tune_positive, len(scores), risks) for r in rungs]
    start = int(np.argmin(predicted))
    last = climb([rung.p for rung in rungs], start, delta)
    held = () if last is None else tuple(range(start, last + 1))
    return JointCertificate(risks=tuple(risks), delta=delta, rungs=rungs, start=start, certified=held)


def _rung(threshold: float, scores: Floats, positive: Truths, risks: Sequence[Risk]) -> JointRung:
    counts = tuple(risk.count(threshold, scores, positive) for risk in risks)
    p = max(exact_p_value(k, n, risk.alpha) for (k, n), risk in zip(counts, risks, strict=True))
    return JointRung(threshold=threshold, counts=counts, p=p)


def _predicted(threshold: float, scores: Floats, positive: Truths, cases: int, risks: Sequence[Risk]) -> float:
    """The largest p-value to expect with `cases` cases, from smoothed tune rates."""
    worst = 0.0
    for risk in risks:
        k, n = risk.count(threshold, scores, positive)
        rate, scaled = (k + 0.5) / (n + 1.0), max(n / len(scores) * cases, 1e-9)
        worst = max(worst, float(betainc(max(scaled * (1 - rate), 1e-9), scaled * rate + 1.0, 1.0 - risk.alpha)))
    return worst
