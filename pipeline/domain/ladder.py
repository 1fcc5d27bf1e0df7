"""The exact-binomial climbing ladder: which threshold keeps a rate below a limit, with a stated confidence.

Rungs and the rung to start from are fixed on one group of patients; counts come from another, disjoint one. Testing
upwards and stopping at the first failure needs no correction for the number of rungs (fixed-sequence testing), and for a
fixed rung the count of misses is binomial, so that the promise is exact for any number of patients. Counts are integers
throughout: a rate times a number of patients may round to the wrong side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc
from scipy.stats import beta, binom

Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]

RUNGS = 32
LOWEST_QUANTILE, HIGHEST_QUANTILE = 0.02, 0.98
_CERTIFIABLE_STEP = 1e-6  # smallest limits are rounded up to it


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One threshold with `k` misses among `n` cases at risk and the exact p-value of "the rate exceeds the limit"."""

    threshold: float
    k: int
    n: int
    p: float


def exact_p_value(k: int, n: int, alpha: float) -> float:
    """Probability of at most `k` misses in `n` cases if the rate were `alpha`; 1 without cases."""
    return exact_p_values([k], [n], alpha)[0]


def exact_p_values(misses: Sequence[int], cases: Sequence[int], alpha: float) -> list[float]:
    """`exact_p_value` of every rung."""
    k, n = np.asarray(misses, dtype=np.int64), np.asarray(cases, dtype=np.int64)
    return [float(p) for p in np.where(n > 0, binom.cdf(k, np.maximum(n, 1), alpha), 1.0)]


def clopper_pearson_upper(k: int, n: int, delta: float) -> float:
    """One-sided upper confidence bound (1 - delta) of a rate with `k` events in `n`; 1 when every one is an event.

    Raises ValueError unless 0 <= k <= n and 0 < delta < 1.
    """
    if not (0 <= k <= n and 0.0 < delta < 1.0):
        raise ValueError(f"needs 0 <= k <= n and 0 < delta < 1, got k={k}, n={n}, delta={delta}")
    return 1.0 if k == n else float(beta.ppf(1.0 - delta, k + 1, n - k))


def cases_needed(misses: int, alpha: float, delta: float) -> int:
    """Fewest cases at risk that certify the limit `alpha` when `misses` of them are missed."""
    low, high = misses, max(2 * misses, 1)
    while exact_p_value(misses, high, alpha) > delta:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if exact_p_value(misses, middle, alpha) > delta else (low, middle)
    return high


def ladder_from(tune_scores: Floats, rungs: int = RUNGS) -> Floats:
    """Thresholds in rising order: distinct scores at `rungs` quantiles (2 to 98 %) of the finite tune scores.

    Infinite scores are gated cases, which no threshold clears; without a finite score the ladder is empty.
    """
    finite = tune_scores[np.isfinite(tune_scores)]
    if finite.size == 0:
        return np.empty(0, dtype=np.float64)
    levels = np.linspace(LOWEST_QUANTILE, HIGHEST_QUANTILE, rungs)
    return np.unique(np.quantile(finite, levels, method="inverted_cdf")).astype(np.float64)


def misses_at(thresholds: Floats, scores: Floats, at_risk: Truths) -> list[int]:
    """For every threshold t, how many cases at risk have score <= t."""
    held = np.sort(scores[at_risk])
    return [int(k) for k in np.searchsorted(held, thresholds, side="right")]


def predicted_start(tune_misses: list[int], tune_at_risk: int, at_risk: int, alpha: float) -> int:
    """The rung whose p-value is predicted smallest from tune counts, scaled to `at_risk` cases; the lowest on a tie."""
    if at_risk == 0 or not tune_misses:
        return 0
    rates = [(k + 0.5) / (tune_at_risk + 1.0) for k in tune_misses]
    # The binomial distribution function continued to real counts: only a prediction, the test itself counts integers.
    predicted = [float(betainc(max(at_risk * (1 - r), 1e-9), at_risk * r + 1.0, 1.0 - alpha)) for r in rates]
    return int(np.argmin(predicted))


def climb(p_values: list[float], start: int, delta: float) -> int | None:
    """The highest rung reached from `start` with every p-value on the way <= delta, or None when the first fails."""
    last = None
    for rung in range(start, len(p_values)):
        if not p_values[rung] <= delta:
            break
        last = rung
    return last


def smallest_certifiable(k: int, n: int, delta: float) -> float | None:
    """Smallest limit that `k` misses in `n` certify, rounded up to 1e-6; None when no limit below 1 is."""
    bound = clopper_pearson_upper(k, n, delta) if n > 0 else 1.0
    rounded = (math.floor(bound / _CERTIFIABLE_STEP) + 1) * _CERTIFIABLE_STEP
    return rounded if rounded < 1.0 else None
