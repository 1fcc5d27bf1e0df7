"""The Brier score of one event, taken apart: reliability, resolution, uncertainty, and what binning leaves within bins.

Brier = reliability - resolution + uncertainty + within, exactly (Murphy 1973; the within-bin term after Stephenson et al.
2008). Finite samples make reliability too large and resolution too large by about the same amount: the corrected terms take
the expected share of chance away (Broecker 2012) and may be negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pipeline.domain.calibration_error import BINS, binned


@dataclass(frozen=True, kw_only=True)
class BrierParts:
    """The parts of the mean squared error of a probability for an event of 0 or 1, on equal-mass bins."""

    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float  #: brier less (reliability - resolution + uncertainty)
    reliability_corrected: float
    resolution_corrected: float
    uncertainty_corrected: float


def brier_decomposition(probability: ArrayLike, outcome: ArrayLike, *, bins: int = BINS) -> BrierParts:
    """The parts for probabilities (N,) and outcomes (N,) of 0 or 1; raises ValueError where they do not belong together."""
    p, y, groups = binned(probability, outcome, bins)
    n, rate = len(y), float(y.mean())
    share = np.array([len(group) / n for group in groups])
    means = np.array([p[group].mean() for group in groups])
    rates = np.array([y[group].mean() for group in groups])
    noise = np.array([_noise(rates[i], len(group)) for i, group in enumerate(groups)])
    brier = float(((p - y) ** 2).mean())
    reliability = float((share * (means - rates) ** 2).sum())
    resolution = float((share * (rates - rate) ** 2).sum())
    uncertainty = rate * (1.0 - rate)
    by_chance, of_rate = float((share * noise).sum()), _noise(rate, n)
    return BrierParts(
        brier=brier,
        reliability=reliability,
        resolution=resolution,
        uncertainty=uncertainty,
        within=brier - (reliability - resolution + uncertainty),
        reliability_corrected=reliability - by_chance,
        resolution_corrected=resolution - by_chance + of_rate,
        uncertainty_corrected=uncertainty + of_rate,
    )


def _noise(rate: float, n: int) -> float:
    """Unbiased estimate of the variance of an observed rate of `n`; 0 for a single one, which shows none."""
    return float(rate * (1.0 - rate) / (n - 1)) if n > 1 else 0.0
