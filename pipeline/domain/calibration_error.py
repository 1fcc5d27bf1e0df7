"""Calibration error: binned differences between confidence and frequency, and how large they are by chance alone.

Every binned error of a finite sample is positive even for a perfectly calibrated model, so none is printed without its
distribution under that null hypothesis. Ties in confidence are never split across bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

Floats = NDArray[np.float64]
Labels = NDArray[np.int_]

BINS = 15
_MOST_SWEPT = 200  # bins


class Binning(StrEnum):
    """How confidences are grouped."""

    EQUAL_WIDTH = "equal_width"  #: Bins of one width between 0 and 1; for comparison with published numbers.
    EQUAL_MASS = "equal_mass"  #: Bins of (nearly) one number of cases; the default.


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """One bin: its range of confidences, number of cases, mean confidence and observed frequency."""

    lowest: float
    highest: float
    n: int
    confidence: float
    frequency: float


def top_label(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """Confidence (N,) of the most probable class and whether it is the label, as 0 or 1 (N,)."""
    p, truth = checked_pairs(probabilities, labels)
    return np.minimum(p.max(axis=1), 1.0), (p.argmax(axis=1) == truth).astype(np.float64)


def checked_pairs(values: ArrayLike, labels: ArrayLike) -> tuple[Floats, Labels]:
    """Values (N, C) and labels (N,) as arrays; raises ValueError where they do not belong together."""
    p, truth = np.asarray(values, dtype=np.float64), np.asarray(labels)
    if p.ndim != 2 or truth.shape != p.shape[:1] or len(truth) == 0:
        raise ValueError(f"needs (N, C) values and N labels, N > 0; got shapes {p.shape} and {truth.shape}")
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= p.shape[1]:
        raise ValueError(f"labels are class indices from 0 to {p.shape[1] - 1}")
    if np.isnan(p).any():
        raise ValueError("a value is undefined (NaN)")
    return p, truth.astype(np.int_)


def reliability_bins(
    confidence: ArrayLike, outcome: ArrayLike, *, bins: int = BINS, binning: Binning = Binning.EQUAL_MASS
) -> tuple[ReliabilityBin, ...]:
    """Non-empty bins in rising order for confidences (N,) in [0, 1] and outcomes (N,) of 0 or 1."""
    p, y = _pairs(confidence, outcome)
    return tuple(
        ReliabilityBin(
            lowest=float(p[group].min()),
            highest=float(p[group].max()),
            n=len(group),
            confidence=float(p[group].mean()),
            frequency=float(y[group].mean()),
        )
        for group in _groups(p, bins, binning)
    )


def calibration_error(
    confidence: ArrayLike, outcome: ArrayLike, *, bins: int = BINS, binning: Binning = Binning.EQUAL_MASS
) -> float:
    """Mean absolute difference of confidence (N,) and frequency over bins, weighted by their cases."""
    p, y = _pairs(confidence, outcome)
    return sum(abs(float(p[g].mean() - y[g].mean())) * len(g) for g in _groups(p, bins, binning)) / len(p)


def debiased_squared_error(confidence: ArrayLike, outcome: ArrayLike, *, bins: int = BINS) -> float:
    """Mean squared difference over equal-mass bins less its expectation by chance; may be negative and is kept so."""
    p, y = _pairs(confidence, outcome)
    total = 0.0
    for group in _groups(p, bins, Binning.EQUAL_MASS):
        n, frequency = len(group), float(y[group].mean())
        noise = frequency * (1.0 - frequency) / (n - 1) if n > 1 else 0.0
        total += n * ((float(p[group].mean()) - frequency) ** 2 - noise)
    return total / len(p)


def sweep_error(confidence: ArrayLike, outcome: ArrayLike) -> float:
    """The error on the most equal-mass bins before whose frequencies first fall with confidence (Roelofs et al. 2022).

    At most `_MOST_SWEPT` bins and two cases a bin: a model that is right throughout never falls.
    """
    p, y = _pairs(confidence, outcome)
    best = _groups(p, 1, Binning.EQUAL_MASS)
    for bins in range(2, min(len(p) // 2, _MOST_SWEPT) + 1):
        groups = _groups(p, bins, Binning.EQUAL_MASS)
        if (np.diff([y[group].mean() for group in groups]) < 0).any():
            break
        best = groups
    return sum(abs(float(p[g].mean() - y[g].mean())) * len(g) for g in best) / len(p)


def binned(
    confidence: ArrayLike, outcome: ArrayLike, bins: int = BINS
) -> tuple[Floats, Floats, list[NDArray[np.intp]]]:
    """Confidences (N,), outcomes (N,) and the indices of every non-empty equal-mass bin in rising order."""
    p, y = _pairs(confidence, outcome)
    return p, y, _groups(p, bins, Binning.EQUAL_MASS)


def null_band(bins: Sequence[ReliabilityBin], *, level: float = 0.95) -> tuple[tuple[float, float], ...]:
    """Per bin the frequencies that a calibrated model of this size shows in `level` of draws (binomial)."""
    tail = (1.0 - level) / 2.0
    return tuple(
        (float(binom.ppf(tail, b.n, b.confidence) / b.n), float(binom.ppf(1.0 - tail, b.n, b.confidence) / b.n))
        for b in bins
    )


def ece(
    probabilities: ArrayLike, labels: ArrayLike, *, bins: int = BINS, binning: Binning = Binning.EQUAL_MASS
) -> float:
    """Expected calibration error of the most probable class, for probabilities (N, C) and labels (N,)."""
    return calibration_error(*top_label(probabilities, labels), bins=bins, binning=binning)


def ece_null(
    probabilities: ArrayLike,
    *,
    seed: int,
    draws: int = 200,
    bins: int = BINS,
    binning: Binning = Binning.EQUAL_MASS,
) -> Floats:
    """Sorted errors (draws,) that a model with exactly these probabilities (N, C) would show by chance.

    Outcomes of the most probable class are drawn from its own probability; the 0.95 quantile is what to print.
    """
    confidence = np.asarray(probabilities, dtype=np.float64).max(axis=1)
    generator = np.random.default_rng(seed)
    groups = _groups(confidence, bins, binning)
    outcomes = (generator.random((draws, len(confidence))) < confidence).astype(np.float64)
    gaps = [np.abs(confidence[g].mean() - outcomes[:, g].mean(axis=1)) * len(g) for g in groups]
    return np.sort(np.sum(gaps, axis=0) / len(confidence))


def _pairs(confidence: ArrayLike, outcome: ArrayLike) -> tuple[Floats, Floats]:
    p, y = np.asarray(confidence, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    if p.ndim != 1 or p.shape != y.shape or len(p) == 0:
        raise ValueError(f"needs as many outcomes as confidences and at least one; got {p.shape} and {y.shape}")
    if not ((p >= 0) & (p <= 1)).all() or not np.isin(y, (0.0, 1.0)).all():
        raise ValueError("confidences lie in [0, 1] and outcomes are 0 or 1")
    return p, y


def _groups(confidence: Floats, bins: int, binning: Binning) -> list[NDArray[np.intp]]:
    """Indices of every non-empty bin in rising order; bins of fewer than two cases join their lower neighbour."""
    order = np.argsort(confidence, kind="stable")
    held = confidence[order]
    if binning is Binning.EQUAL_WIDTH:
        cuts = np.searchsorted(held, np.linspace(0.0, 1.0, bins + 1)[1:-1], side="right")
        return [group for group in np.split(order, cuts) if len(group)]
    wanted = np.round(np.linspace(0, len(held), bins + 1)[1:-1]).astype(int)
    wanted = wanted[(wanted > 0) & (wanted < len(held))]
    cuts = np.unique(np.searchsorted(held, held[wanted], side="left"))
    return _without_singles([group for group in np.split(order, cuts) if len(group)])


def _without_singles(groups: list[NDArray[np.intp]]) -> list[NDArray[np.intp]]:
    merged: list[NDArray[np.intp]] = []
    for group in groups:
        if merged and (len(group) < 2 or len(merged[-1]) < 2):
            merged[-1] = np.concatenate([merged[-1], group])
        else:
            merged.append(group)
    return merged
