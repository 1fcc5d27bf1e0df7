"""The stopping rule of a release: fixed on the tune split before the first certify case is looked at.

The certified thresholds are not known yet, and may not be: what is certified is the scorer with this rule in it. The rule
therefore bets on the thresholds that the tune split lets expect, and a certificate that lands elsewhere stays exact,
since passes saved near a threshold that was not expected only count among its misses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.looks import Judge, Look
from models.summary import one_case
from pipeline.domain.certificate import Side
from pipeline.domain.ladder import climb, exact_p_values, ladder_from, misses_at, predicted_start
from pipeline.domain.stopping import StoppingRule
from pipeline.domain.uncertainty import decompose
from pipeline.protocol import TriageProtocol

Floats = NDArray[np.float64]


def expected_threshold(rising: Floats, at_risk: NDArray[np.bool_], alpha: float, delta: float) -> float | None:
    """The rung that this many cases at risk would certify with the tune counts, else the safest; None without a rung.

    `rising` (N,) are scores turned so that the certified side is low, gated cases infinite.
    """
    thresholds, n = ladder_from(rising), int(at_risk.sum())
    if not len(thresholds):
        return None
    counts = misses_at(thresholds, rising, at_risk)
    start = predicted_start(counts, n, n, alpha)
    reached = climb(exact_p_values(counts, [n] * len(counts), alpha), start, delta)
    return float(thresholds[start if reached is None else reached])


def stopping_rule(
    judge: Judge,
    looks: Sequence[Look],
    expected: dict[Side, float | None],
    *,
    information_limit: float,
) -> StoppingRule:
    """The rule for `expected` thresholds of the route score, found again on the scale of the single passes.

    `looks` are the tune cases with the whole budget; each threshold is the score of one of them.
    """
    protocol = judge.protocol
    raw = np.array([_mean_finding(judge, one) for one in looks])
    scores = np.array([judge.summaries(one)[0].route_score for one in looks])
    found = [float(raw[np.argmin(np.abs(scores - t))]) for t in expected.values() if t is not None]
    return StoppingRule(
        budget=protocol.network.passes,
        error=protocol.network.stopping_error,
        thresholds=tuple(sorted({t for t in found if 0.0 < t < 1.0})),
        information_limit=information_limit,
    )


def _mean_finding(judge: Judge, found: Look) -> float:
    protocol: TriageProtocol = judge.protocol
    case = one_case(found.samples, protocol, judge.temperature, found.series)
    return float(np.exp(decompose(case).log_mean[0, list(protocol.finding_indices)]).sum())
