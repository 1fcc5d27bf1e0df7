"""Calibration of heads that answer every label by itself: a slope and an offset per label, where enough show it.

Platt 1999: q = sigmoid(a z + b), a > 0, fitted by maximum likelihood on the log odds of the pooled probability. A label with
fewer positives than `FEWEST_POSITIVES` shares one slope, without offset, with all labels of its kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize, minimize_scalar

from pipeline.domain.labels_uncertainty import known
from pipeline.errors import HaltPipeline

Floats = NDArray[np.float64]

FEWEST_POSITIVES = 50
_LOG_SLOPES = (-2.5, 2.5)
_OFFSETS = (-20.0, 20.0)
_AT_BOUND = 1e-3


@dataclass(frozen=True, eq=False, kw_only=True)
class Platt:
    """Slopes and offsets per label (L,), and which labels share the common slope."""

    slope: Floats
    offset: Floats
    shared: NDArray[np.bool_]

    def apply(self, log_odds: ArrayLike) -> Floats:
        """Calibrated log odds (N, L)."""
        return np.asarray(np.asarray(log_odds, dtype=np.float64) * self.slope + self.offset)


def fit_platt(log_odds: ArrayLike, labels: ArrayLike) -> Platt:
    """Fit on log odds (N, L) and labels (N, L) of 0, 1 or NaN for unknown, which count nowhere.

    Raises ValueError where shapes differ, HaltPipeline where no slope between e^-2.5 and e^2.5 fits.
    """
    z, y = np.asarray(log_odds, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    mask = known(y)
    if z.shape != y.shape or not np.isfinite(z).all() or not mask.any():
        raise ValueError("needs finite log odds, as many labels, and at least one that is known")
    common = _common_slope(z[mask], y[mask])
    slopes, offsets = np.full(z.shape[1], common), np.zeros(z.shape[1])
    rare = np.array([_rarer(y[mask[:, c], c]) < FEWEST_POSITIVES for c in range(z.shape[1])])
    for c in np.flatnonzero(~rare):
        slopes[c], offsets[c] = _own(z[mask[:, c], c], y[mask[:, c], c], common)
    return Platt(slope=slopes, offset=offsets, shared=rare)


def _rarer(labels: Floats) -> int:
    """How often the rarer answer was given."""
    return int(min((labels == 1.0).sum(), (labels == 0.0).sum()))


def _common_slope(z: Floats, y: Floats) -> float:
    def loss(x: float) -> float:
        return _nll(np.exp(x) * z, y)

    found = float(minimize_scalar(loss, bounds=_LOG_SLOPES, method="bounded", options={"xatol": 1e-8}).x)
    if min(abs(found - bound) for bound in _LOG_SLOPES) <= _AT_BOUND:
        raise HaltPipeline(
            "tune split: no slope between e^-2.5 and e^2.5 fits its labels; add cases or check the labels"
        )
    return float(np.exp(found))


def _own(z: Floats, y: Floats, start: float) -> tuple[float, float]:
    def loss(x: Floats) -> float:
        return _nll(np.exp(x[0]) * z + x[1], y)

    found = minimize(loss, np.array([np.log(start), 0.0]), bounds=[_LOG_SLOPES, _OFFSETS]).x
    if min(abs(found[0] - bound) for bound in _LOG_SLOPES) <= _AT_BOUND:
        raise HaltPipeline("tune split: no slope between e^-2.5 and e^2.5 fits a label; add cases or check the labels")
    return float(np.exp(found[0])), float(found[1])


def _nll(z: Floats, y: Floats) -> float:
    return float(np.where(y == 1.0, np.logaddexp(0.0, -z), np.logaddexp(0.0, z)).mean())
