"""The referral curve: how good the answers that are kept become as the least confident cases go to clinicians.

The name is the literature's for a curve of deferral. Each point also tells what was deferred: a model that simply hands
over every case with the finding would look good on accuracy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.domain.discrimination import auroc
from pipeline.domain.patient_bootstrap import resamples

MEASURES = ("auc", "sensitivity", "specificity", "accuracy")
SHARES = tuple(round(0.05 * step, 2) for step in range(19))  # 0 to 90 %


@dataclass(frozen=True, kw_only=True)
class ReferralPoint:
    """The kept cases at one share of deferral; NaN where a number has no cases to be computed from."""

    deferred: float  #: share asked for
    kept: int
    auc: float  #: finding against no finding
    sensitivity: float
    specificity: float
    accuracy: float
    deferred_positives: int
    deferred_negatives: int


def referral_curve(
    finding_probability: ArrayLike,
    positive: ArrayLike,
    confidence: ArrayLike,
    *,
    correct: ArrayLike | None = None,
    shares: Sequence[float] = SHARES,
    operating_point: float = 0.5,
    seed: int = 0,
) -> tuple[ReferralPoint, ...]:
    """Points in the order of `shares` for N cases; the least confident go first, ties in a seeded random order.

    `correct` (N,) tells whether the class answered is right and defaults to the finding being called rightly at the
    operating point.
    """
    scores, truth = np.asarray(finding_probability, dtype=np.float64), np.asarray(positive).astype(np.bool_)
    called = scores >= operating_point
    right = called == truth if correct is None else np.asarray(correct).astype(np.bool_)
    order = _most_confident_first(np.asarray(confidence, dtype=np.float64), seed)
    if not len(scores) == len(truth) == len(right) == len(order) > 0:
        raise ValueError("needs as many labels and confidences as probabilities, and at least one")
    return tuple(_point(share, scores[order], truth[order], called[order], right[order]) for share in shares)


def referral_intervals(
    finding_probability: ArrayLike,
    positive: ArrayLike,
    confidence: ArrayLike,
    patients: Sequence[str],
    *,
    correct: ArrayLike,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    draws: int = 200,
    level: float = 0.95,
) -> tuple[dict[str, tuple[float, float]], ...]:
    """Per share the interval (low, high) of auc, sensitivity, specificity and accuracy, resampling whole patients.

    NaN where fewer than half of the draws give a number.
    """
    scores, truth = np.asarray(finding_probability, dtype=np.float64), np.asarray(positive).astype(np.bool_)
    held, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct).astype(np.bool_)
    curves = [
        referral_curve(scores[i], truth[i], held[i], correct=right[i], shares=shares, seed=seed)
        for i in resamples(patients, seed, draws)
    ]
    return tuple(
        {name: _interval([getattr(curve[at], name) for curve in curves], level) for name in MEASURES}
        for at in range(len(shares))
    )


def falls(points: Sequence[ReferralPoint], intervals: Sequence[Mapping[str, tuple[float, float]]]) -> tuple[float, ...]:
    """Shares of deferral at which accuracy falls below what was certain to be had with less: the order misleads there.

    A useful order gains with every case deferred; under shift it need not (Srivastava et al. 2023, arXiv:2311.16766). A share is
    named when its accuracy lies below the lower end of the interval at a smaller share.
    """
    found, floor = [], -np.inf
    for point, interval in zip(points, intervals, strict=True):
        if point.accuracy < floor:
            found.append(point.deferred)
        if np.isfinite(interval["accuracy"][0]):
            floor = max(floor, interval["accuracy"][0])
    return tuple(found)


def _interval(values: Sequence[float], level: float) -> tuple[float, float]:
    defined = [value for value in values if np.isfinite(value)]
    if 2 * len(defined) < len(values) or not defined:
        return float("nan"), float("nan")
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return float(low), float(high)


def _most_confident_first(confidence: NDArray[np.float64], seed: int) -> NDArray[np.intp]:
    shuffled = np.random.default_rng(seed).permutation(len(confidence))
    return np.asarray(shuffled[np.argsort(-confidence[shuffled], kind="stable")])


def _point(
    share: float,
    scores: NDArray[np.float64],
    truth: NDArray[np.bool_],
    called: NDArray[np.bool_],
    right: NDArray[np.bool_],
) -> ReferralPoint:
    """The point that keeps the first cases of these arrays (N,), the most confident first."""
    kept = len(scores) - round(share * len(scores))
    return ReferralPoint(
        deferred=share,
        kept=kept,
        auc=auroc(truth[:kept], scores[:kept]) if kept else float("nan"),
        sensitivity=_share(called[:kept][truth[:kept]]),
        specificity=_share(~called[:kept][~truth[:kept]]),
        accuracy=_share(right[:kept]),
        deferred_positives=int(truth[kept:].sum()),
        deferred_negatives=int((~truth[kept:]).sum()),
    )


def _share(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if values.size else float("nan")
