"""Calibration: pool the ensemble first, then one temperature; and how far probabilities are from frequencies.

A temperature never changes the ranking of two classes' probabilities, so it cannot buy or spoil a certificate there; it
makes the numbers shown mean what they say. An ensemble of stochastic passes is usually under-confident: expect T < 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

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
from pipeline.domain.uncertainty import PosteriorSamples
from pipeline.errors import HaltPipeline

__all__ = [
    "Binning",
    "ReliabilityBin",
    "apply_shared",
    "apply_temperature",
    "brier",
    "calibration_error",
    "count_floored",
    "debiased_squared_error",
    "ece",
    "ece_null",
    "finding_probability",
    "fit_shared_temperature",
    "fit_temperature",
    "nll",
    "prior_shift",
    "reliability_bins",
    "top_label",
    "undo_prior",
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
    return _fitted(
        lambda x: np.asarray(log_softmax(log_p / np.exp(x), axis=1)),
        truth,
        log_p.shape[1],
        "add cases or check the labels",
    )


def fit_shared_temperature(log_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """One temperature inside all members and passes (M, T, N, C) that gives the pool the lowest NLL (N labels).

    Pool-with-calibrate of Rahaman and Thiery 2021 (arXiv:2007.08792). Raises HaltPipeline at the bounds of `fit_temperature`.
    """
    log_p = np.asarray(log_probabilities, dtype=np.float64)
    if log_p.ndim != 4 or 0 in log_p.shape:
        raise ValueError(f"needs (M, T, N, C) log probabilities, got shape {log_p.shape}")
    _, truth = checked_pairs(log_p[0, 0], labels)
    return _fitted(
        lambda x: _pooled(log_p, float(np.exp(x))), truth, log_p.shape[-1], "add cases, or choose pooled calibration"
    )


def apply_shared(samples: PosteriorSamples, temperature: float) -> PosteriorSamples:
    """The samples with one temperature inside every member and pass; their mean is the calibrated pool."""
    return PosteriorSamples(apply_temperature(samples.log_probabilities, temperature))


def undo_prior(log_probabilities: ArrayLike, sampled: ArrayLike, natural: ArrayLike) -> Floats:
    """Log probabilities (..., C) learnt where classes came in shares `sampled` (C,), as they are where in `natural` (C,).

    Bayes' rule: log p + log natural - log sampled, renormalised. Raises ValueError unless both are positive shares of
    every class that sum to one.
    """
    log_p = np.asarray(log_probabilities, dtype=np.float64)
    shift = prior_shift(sampled, natural)
    if log_p.shape[-1] != len(shift):
        raise ValueError(f"{log_p.shape[-1]} classes need as many shares, got {len(shift)}")
    return np.asarray(log_softmax(log_p + shift, axis=-1))


def prior_shift(sampled: ArrayLike, natural: ArrayLike) -> Floats:
    """What `undo_prior` adds to the logits (C,): log natural - log sampled."""
    was, is_now = np.asarray(sampled, dtype=np.float64), np.asarray(natural, dtype=np.float64)
    usable = was.ndim == 1 and was.shape == is_now.shape and (was > 0).all() and (is_now > 0).all()
    if not usable or abs(was.sum() - 1.0) > 1e-9 or abs(is_now.sum() - 1.0) > 1e-9:
        raise ValueError("class shares are positive, one per class, and sum to one")
    return np.asarray(np.log(is_now) - np.log(was))


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


def _fitted(calibrated: Callable[[float], Floats], truth: Labels, classes: int, cure: str) -> float:
    """The temperature whose `calibrated` log probabilities (N, C), a function of its logarithm, have the lowest NLL."""
    cases, targets = len(truth), np.eye(classes)[truth]
    for smoothing in (0.0, 1.0):
        soft = (targets * cases + smoothing) / (cases + smoothing * classes)
        found = _lowest_of(lambda x, soft=soft: float(-(soft * calibrated(x)).sum(axis=1).mean()))  # type: ignore[misc]
        if min(abs(found - bound) for bound in LOG_TEMPERATURE_RANGE) > _AT_BOUND:
            return float(np.exp(found))
    raise HaltPipeline(f"tune split: no temperature between e^-2.5 and e^2.5 fits its {cases} cases; {cure}")


def _lowest_of(loss: Callable[[float], float]) -> float:
    """The log temperature with the lowest loss: the best of a grid, then a bounded search around it."""
    grid = np.linspace(*LOG_TEMPERATURE_RANGE, _GRID)
    best = int(np.argmin([loss(x) for x in grid]))
    around = (float(grid[max(best - 1, 0)]), float(grid[min(best + 1, _GRID - 1)]))
    return float(minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-7}).x)


def _pooled(log_p: Floats, temperature: float) -> Floats:
    """(M, T, N, C) to (N, C), the temperature inside."""
    inside = log_softmax(log_p / temperature, axis=-1)
    return np.asarray(logsumexp(inside, axis=(0, 1)) - np.log(log_p.shape[0] * log_p.shape[1]))


def _of_truth(log_p: Floats, truth: Labels) -> Floats:
    return np.asarray(log_p[np.arange(len(truth)), truth])
