"""The order-statistic certificate: a threshold from the cases at risk alone, exact for any number of them.

With n scores of cases at risk in rising order, the threshold lies just below S_(k+1), where k is the largest count with
binom.cdf(k, n, alpha) <= delta: the share of cases at risk below S_(k+1) is the (k+1)-st order statistic of n uniform
numbers, so that it exceeds alpha with probability binom.cdf(k, n, alpha). Exact for continuous scores and conservative
with ties. No grid, no tune split and no case without the finding is asked (Wilks 1941; Tong, Feng and Li 2018,
doi:10.1126/sciadv.aao1659).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from pipeline.domain.ladder import Rung, exact_p_value

Floats = NDArray[np.float64]


def most_misses(n: int, alpha: float, delta: float) -> int | None:
    """The largest count of misses in `n` cases at risk that certifies `alpha` at `delta`; None where not even 0 does."""
    if n < 1 or exact_p_value(0, n, alpha) > delta:
        return None
    guess = int(binom.ppf(delta, n, alpha))
    while exact_p_value(guess, n, alpha) > delta:
        guess -= 1
    return guess


def order_statistic_rung(rising: Floats, at_risk: NDArray[np.bool_], alpha: float, delta: float) -> Rung | None:
    """The one threshold that these scores (N,) certify, or None where too few cases are at risk.

    `rising` are scores turned so that the certified side is low, gated cases infinite. Where fewer finite scores than
    allowed misses are at risk, the threshold is the largest finite score.
    """
    held = np.sort(rising[at_risk])
    allowed = most_misses(len(held), alpha, delta)
    if allowed is None or not np.isfinite(held[0]):
        return None
    edge = float(held[allowed])
    threshold = float(np.nextafter(edge, -np.inf)) if np.isfinite(edge) else float(held[np.isfinite(held)][-1])
    k = int(np.searchsorted(held, threshold, side="right"))
    return Rung(threshold=threshold, k=k, n=len(held), p=exact_p_value(k, len(held), alpha))
