"""Selective prediction: what is gained by letting the model speak only where it is confident.

A failure is a wrong answer (1) or a right one (0); confidence orders the cases. Cases of equal confidence are accepted or
deferred together, or averaged over their random order, so that no result depends on the order of rows. Definitions: AURC
and E-AURC (Geifman et al. 2019), AUGRC (Traub et al. 2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.domain.discrimination import auroc, checked_truths
from pipeline.domain.patient_bootstrap import Interval, cluster_bootstrap, paired_difference
from pipeline.domain.referral import ReferralPoint, referral_curve

__all__ = [
    "Interval",
    "ReferralPoint",
    "RiskCoverage",
    "augrc",
    "aupr_error",
    "aupr_success",
    "aurc",
    "auroc",
    "cluster_bootstrap",
    "e_aurc",
    "failure_auroc",
    "fpr95",
    "oracle_augrc",
    "oracle_aurc",
    "paired_difference",
    "referral_curve",
    "risk_coverage",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class RiskCoverage:
    """The risk-coverage curve at every distinct confidence, from the most confident case to all."""

    threshold: Floats  #: (K,) falling: cases with at least this confidence are accepted
    coverage: Floats  #: (K,) share accepted
    selective_risk: Floats  #: (K,) failures among the accepted
    generalised_risk: Floats  #: (K,) accepted failures among all cases


def risk_coverage(failures: ArrayLike, confidence: ArrayLike) -> RiskCoverage:
    """The curve for failures (N,) of 0 or 1 and confidences (N,)."""
    failed, held = checked_truths(failures, confidence)
    order = np.argsort(-held, kind="stable")
    falling = held[order]
    last = np.flatnonzero(np.append(np.diff(falling) != 0, True))
    accepted = last + 1.0
    errors = np.cumsum(failed[order])[last]
    return RiskCoverage(
        threshold=falling[last],
        coverage=accepted / len(held),
        selective_risk=errors / accepted,
        generalised_risk=errors / len(held),
    )


def aurc(failures: ArrayLike, confidence: ArrayLike) -> float:
    """Area under the risk-coverage curve, expected over random orders of ties; lower is better."""
    failed, held = checked_truths(failures, confidence)
    n = len(held)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, n + 1))])
    weight = harmonic[n] - harmonic[:n]  # of a failure at rank 1..n
    _, group = np.unique(-held, return_inverse=True)
    order = np.argsort(-held, kind="stable")
    tied = np.bincount(group[order], weights=weight) / np.bincount(group)
    return float((failed * tied[group]).sum() / n)


def oracle_aurc(error_rate: float) -> float:
    """AURC of a perfect order at an error rate e, for many cases: e + (1 - e) ln(1 - e); random order gives e."""
    return error_rate + (1.0 - error_rate) * float(np.log1p(-error_rate)) if error_rate < 1.0 else 1.0


def oracle_augrc(error_rate: float) -> float:
    """AUGRC of a perfect order at an error rate e: e^2 / 2; random order gives e / 2."""
    return error_rate**2 / 2.0


def e_aurc(failures: ArrayLike, confidence: ArrayLike) -> float:
    """AURC less that of a perfect order with the same error rate e, e + (1 - e) ln(1 - e)."""
    return aurc(failures, confidence) - oracle_aurc(float(checked_truths(failures, confidence)[0].mean()))


def augrc(failures: ArrayLike, confidence: ArrayLike) -> float:
    """Area under accepted failures among all cases over coverage: the mean risk of an undetected failure."""
    curve = risk_coverage(failures, confidence)
    coverage = np.concatenate([[0.0], curve.coverage])
    risk = np.concatenate([[0.0], curve.generalised_risk])
    return float(np.trapezoid(risk, coverage))


def failure_auroc(failures: ArrayLike, confidence: ArrayLike) -> float:
    """Probability that a right answer is more confident than a wrong one; NaN when all or none fail."""
    failed, held = checked_truths(failures, confidence)
    return auroc(failed == 0.0, held)


def fpr95(failures: ArrayLike, confidence: ArrayLike) -> float:
    """Share of wrong answers kept at the threshold that keeps at least 95 % of the right ones; NaN when all or none fail."""
    failed, held = checked_truths(failures, confidence)
    wrong, right = held[failed == 1.0], np.sort(held[failed == 0.0])
    if not len(wrong) or not len(right):
        return float("nan")
    dropped = len(right) - math.ceil(0.95 * len(right) - 1e-9)
    return float((wrong >= right[dropped]).mean())


def aupr_success(failures: ArrayLike, confidence: ArrayLike) -> float:
    """Average precision of finding the right answers by confidence; NaN when all or none fail."""
    failed, held = checked_truths(failures, confidence)
    return _average_precision(failed == 0.0, held)


def aupr_error(failures: ArrayLike, confidence: ArrayLike) -> float:
    """Average precision of finding the wrong answers by lack of confidence; NaN when all or none fail."""
    failed, held = checked_truths(failures, confidence)
    return _average_precision(failed == 1.0, -held)


def _average_precision(sought: NDArray[np.bool_], score: Floats) -> float:
    """Sum of precision times the gain in recall over distinct thresholds, highest score first."""
    if sought.all() or not sought.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    hits = np.cumsum(sought[order])[last]
    recall = np.concatenate([[0.0], hits / sought.sum()])
    return float((np.diff(recall) * hits / (last + 1.0)).sum())
