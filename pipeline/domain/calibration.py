"""Calibration: pool the ensemble first, then one temperature; and how far probabilities are from frequencies.

A temperature never changes the ranking of two classes' probabilities, so it cannot buy or spoil a certificate there; it
makes the numbers shown mean what they say. An ensemble of stochastic passes is usually under-confident: expect T < 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from pipeline.domain.calibration_error import (
    Binning,
    ReliabilityBin,
    calibration_error,
    checked_pairs,
    debiased_squared_error,
    ece,
    ece_null,
    reliability_bins,
    top_label,
)
from pipeline.errors import HaltPipeline

__all__ = [
    "Binning",
    "ReliabilityBin",
    "apply_temperature",
    "brier",
    "calibration_error",
    "count_floored",
    "debiased_squared_error",
    "ece",
    "ece_null",
    "finding_probability",
    "fit_temperature",
    "nll",
    "reliability_bins",
    "top_label",
]

Floats = NDArray[np.float64]
Labels = NDArray[np.int_]

LOG_TEMPERATURE_RANGE = (-2.5, 2.5)
_GRID = 51  # starting points before the golden section
_AT_BOUND = 1e-3  # of log T
PROBABILITY_FLOOR = 1e-12  # in the NLL; `count_floored` tells how often it acted


def apply_temperature(log_probabilities: ArrayLike, temperature: float) -> Floats:
    """Calibrated log probabilities (..., C): log softmax of log p / T. Raises ValueError unless T is finite and > 0."""
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"a temperature is finite and positive, got {temperature}")
    return np.asarray(log_softmax(np.asarray(log_probabilities, dtype=np.float64) / temperature, axis=-1))


def fit_temperature(log_mean: ArrayLike, labels: ArrayLike) -> float:
    """The temperature with the lowest NLL for pooled log probabilities (N, C) of the tune split.

    Where every case is classified right without bound the optimum does not exist; targets are then smoothed as if one
    more case of every class had been seen. Raises HaltPipeline when that does not bring it inside e^-2.5 to e^2.5.
    """
    log_p, truth = checked_pairs(log_mean, labels)
    cases, classes = log_p.shape
    targets = np.eye(classes)[truth]
    for smoothing in (0.0, 1.0):
        soft = (targets * cases + smoothing) / (cases + smoothing * classes)
        found = _lowest(log_p, soft)
        if min(abs(found - bound) for bound in LOG_TEMPERATURE_RANGE) > _AT_BOUND:
            return float(np.exp(found))
    raise HaltPipeline(
        f"tune split: no temperature between e^-2.5 and e^2.5 fits its {cases} cases; add cases or check the labels"
    )


def finding_probability(log_probabilities: ArrayLike, finding_indices: Sequence[int]) -> Floats:
    """Probability of any finding (...) from log probabilities (..., C), never above one."""
    chosen = np.exp(np.asarray(log_probabilities, dtype=np.float64)[..., list(finding_indices)])
    return np.asarray(np.minimum(chosen.sum(axis=-1), 1.0))


def nll(log_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean negative log likelihood (nats) of log probabilities (N, C), floored at log 1e-12."""
    log_p, truth = checked_pairs(log_probabilities, labels)
    return float(-np.maximum(_of_truth(log_p, truth), np.log(PROBABILITY_FLOOR)).mean())


def count_floored(log_probabilities: ArrayLike, labels: ArrayLike) -> int:
    """How many cases the floor of `nll` acted on; to be reported beside it."""
    log_p, truth = checked_pairs(log_probabilities, labels)
    return int((_of_truth(log_p, truth) < np.log(PROBABILITY_FLOOR)).sum())


def brier(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean over cases of the squared error summed over classes, for probabilities (N, C); from 0 to 2."""
    p, truth = checked_pairs(probabilities, labels)
    return float(((p - np.eye(p.shape[1])[truth]) ** 2).sum(axis=1).mean())


def _lowest(log_p: Floats, targets: Floats) -> float:
    def loss(log_temperature: float) -> float:
        return float(-(targets * log_softmax(log_p / np.exp(log_temperature), axis=1)).sum(axis=1).mean())

    grid = np.linspace(*LOG_TEMPERATURE_RANGE, _GRID)
    best = int(np.argmin([loss(x) for x in grid]))
    around = (float(grid[max(best - 1, 0)]), float(grid[min(best + 1, _GRID - 1)]))
    return float(minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-7}).x)


def _of_truth(log_p: Floats, truth: Labels) -> Floats:
    return np.asarray(log_p[np.arange(len(truth)), truth])
