"""Discrimination: how well scores order cases of two kinds."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]


def auroc(positive: ArrayLike, scores: ArrayLike) -> float:
    """Area under the receiver operating characteristic, ties counting half; NaN without positives or negatives."""
    truth, held = checked_truths(positive, scores)
    chosen = truth == 1.0
    n_positive, n_negative = int(chosen.sum()), int((~chosen).sum())
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    ranks = rankdata(held)
    return float((ranks[chosen].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def checked_truths(truths: ArrayLike, values: ArrayLike) -> tuple[Floats, Floats]:
    """Truths of 0 or 1 and defined values as arrays (N,), N > 0; raises ValueError where they are not."""
    y, x = np.asarray(truths, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if y.ndim != 1 or y.shape != x.shape or len(y) == 0:
        raise ValueError(f"needs as many values as truths and at least one; got {y.shape} and {x.shape}")
    if np.isnan(x).any() or not np.isin(y, (0.0, 1.0)).all():
        raise ValueError("truths are 0 or 1 and no value is undefined")
    return y, x
