"""Selective prediction: what is gained by letting the model speak only where it is confident.

A failure is a wrong answer (1) or a right one (0); confidence orders the cases. Cases of equal confidence are accepted or
deferred together, or averaged over their random order, so that no result depends on the order of rows. Definitions: AURC
and E-AURC (Geifman et al. 2019), AUGRC (Traub et al. 2024).
"""

from __future__ import annotations

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
    "aurc",
    "auroc",
    "cluster_bootstrap",
    "e_aurc",
    "failure_auroc",
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


def e_aurc(failures: ArrayLike, confidence: ArrayLike) -> float:
    """AURC less that of a perfect order with the same error rate e, e + (1 - e) ln(1 - e)."""
    rate = float(checked_truths(failures, confidence)[0].mean())
    oracle = rate + (1.0 - rate) * float(np.log1p(-rate)) if rate < 1.0 else 1.0
    return aurc(failures, confidence) - oracle


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
