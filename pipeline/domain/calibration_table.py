"""Every calibration error beside what chance alone would make of it, so that none is read for more than it is.

Under the null hypothesis the model's probabilities are right: labels are drawn from them and the very same error is
computed. With n = 150 a perfectly calibrated model shows an equal-width error of 0.07, so that a number without its null
says nothing of a small test set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.domain.calibration_error import (
    Binning,
    calibration_error,
    checked_pairs,
    debiased_squared_error,
    ece,
    sweep_error,
    top_label,
)

Floats = NDArray[np.float64]
Labels = NDArray[np.int_]
Error = Callable[[Floats, Labels], float]

DRAWS = 200


@dataclass(frozen=True, kw_only=True)
class CalibrationLine:
    """One error, the 5 %, 50 % and 95 % quantiles of its null distribution, and whether it lies at or under the last."""

    name: str
    value: float
    null_low: float
    null_median: float
    null_95: float
    inside: bool


def calibration_table(
    probabilities: ArrayLike, labels: ArrayLike, finding_indices: Sequence[int], *, seed: int, draws: int = DRAWS
) -> tuple[CalibrationLine, ...]:
    """A line per error for probabilities (N, C) and labels (N,), each with its null distribution over `draws` draws.

    Three of the most probable class, its debiased square, the mean over classes, and the finding's.
    """
    p, truth = checked_pairs(probabilities, labels)
    errors = _errors(list(finding_indices))
    generator = np.random.default_rng(seed)
    null = {name: np.empty(draws) for name in errors}
    for draw in range(draws):
        drawn = _drawn(p, generator)
        for name, error in errors.items():
            null[name][draw] = error(p, drawn)
    return tuple(_line(name, error(p, truth), null[name]) for name, error in errors.items())


def classwise_error(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """The mean over classes of the equal-mass error of that class's probability (Kull et al. 2019)."""
    p, truth = checked_pairs(probabilities, labels)
    return float(np.mean([calibration_error(np.clip(p[:, c], 0, 1), truth == c) for c in range(p.shape[1])]))


def finding_error(probabilities: ArrayLike, labels: ArrayLike, finding_indices: Sequence[int]) -> float:
    """The equal-mass error of the probability of any finding: the one that routes."""
    p, truth = checked_pairs(probabilities, labels)
    score = np.clip(p[:, list(finding_indices)].sum(axis=1), 0.0, 1.0)
    return calibration_error(score, np.isin(truth, finding_indices))


def _errors(finding: list[int]) -> dict[str, Error]:
    return {
        "equal_width": lambda p, y: ece(p, y, binning=Binning.EQUAL_WIDTH),
        "equal_mass": ece,
        "sweep": lambda p, y: sweep_error(*top_label(p, y)),
        "debiased": lambda p, y: debiased_squared_error(*top_label(p, y)),
        "class_wise": classwise_error,
        "finding": lambda p, y: finding_error(p, y, finding),
    }


def _drawn(p: Floats, generator: np.random.Generator) -> Labels:
    """One label per row, drawn from the row's own probabilities."""
    places = generator.random(len(p))[:, None] * p.sum(axis=1, keepdims=True)
    return np.asarray(np.minimum((np.cumsum(p, axis=1) <= places).sum(axis=1), p.shape[1] - 1), dtype=np.int_)


def _line(name: str, value: float, null: Floats) -> CalibrationLine:
    low, median, high = np.quantile(null, [0.05, 0.5, 0.95])
    return CalibrationLine(
        name=name,
        value=value,
        null_low=float(low),
        null_median=float(median),
        null_95=float(high),
        inside=bool(value <= high),
    )
