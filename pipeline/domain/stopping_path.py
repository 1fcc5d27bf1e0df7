"""Every round at once: after which round the side of a threshold is settled, as `stopping.side_settled` says one by one.

The stakes of a round follow from sums over the rounds before it, so that the capital after every round is one running
product; a sampler that draws rounds in blocks asks once per block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

CLIP = 4.0  #: times the threshold, beyond which a probability counts as that much
MOST_AT_STAKE = 0.95  #: of what keeps the capital positive


def settled_rounds(finding: Floats, threshold: float, budget: int, error: float) -> Mask:
    """Per round r (R,) whether the side of `threshold` is settled by the first r columns of `finding` (M, R)."""
    values, limit = (finding, threshold) if threshold <= 0.5 else (1.0 - finding, 1.0 - threshold)
    enough = 1.0 / error
    count = np.arange(1, values.shape[1] + 1)
    means = np.cumsum(values.mean(axis=0)) / count
    above, below = capital_paths(values, limit, budget, CLIP)
    won_above = (above >= enough) & (means > limit)
    won_below = (below >= enough) & (means < limit) & ~won_above
    if not won_below.any():
        return won_above
    unclipped = np.maximum.accumulate(values.max(axis=0)) <= CLIP * limit
    return won_above | (won_below & (unclipped | (capital_paths(values, limit, budget, np.inf)[1] >= enough)))


def capital_paths(values: Floats, limit: float, budget: int, clip: float) -> tuple[Floats, Floats]:
    """The largest capitals (R,) reached by the first r rounds, betting that the budget's mean is above `limit`, and below.

    Infinite where the passes not yet made can no longer change the side.
    """
    ceiling = min(1.0, clip * limit)
    shown, null = np.minimum(values, ceiling) / ceiling, limit / ceiling
    members, rounds = shown.shape
    total = members * budget
    made = members * np.arange(rounds + 1)
    sums = np.concatenate([[0.0], np.cumsum(shown.sum(axis=0))])
    squares = np.concatenate([[0.0], np.cumsum((shown**2).sum(axis=0))])
    missing, left = total * null - sums, total - made
    rest = missing[:-1] / left[:-1]
    alive = np.logical_and.accumulate((rest > 0.0) & (rest < 1.0))
    up, down = _stakes(made[:-1], sums[:-1], squares[:-1], np.where(alive, rest, 0.5))
    gains = shown - rest
    above = _highest(np.where(alive, np.prod(1.0 + up * gains, axis=0), 1.0))
    below = _highest(np.where(alive, np.prod(1.0 - down * gains, axis=0), 1.0))
    over, under = _decided(missing, left, alive, rest)
    return np.where(over, np.inf, above), np.where(under, np.inf, below)


def _stakes(made: Floats, sums: Floats, squares: Floats, rest: Floats) -> tuple[Floats, Floats]:
    """What is put on "above" and on "below" in every round: approximate growth-optimal from the past."""
    most_up, most_down = MOST_AT_STAKE / rest, MOST_AT_STAKE / (1.0 - rest)
    mean = (0.5 + sums) / (made + 1.0)
    spread = (0.25 + np.maximum(squares - 2.0 * mean * sums + made * mean**2, 0.0)) / (made + 1.0)
    edge = mean - rest
    stake = edge / (spread + edge**2)
    first = made == 0
    up = np.where(first, most_up / 2.0, np.clip(stake, 0.0, most_up))
    return up, np.where(first, most_down / 2.0, np.clip(-stake, 0.0, most_down))


def _highest(factors: Floats) -> Floats:
    return np.asarray(np.maximum.accumulate(np.maximum(np.cumprod(factors), 1.0)))


def _decided(missing: Floats, left: Floats, alive: Mask, rest: Floats) -> tuple[Mask, Mask]:
    """Per round whether what is left can no longer bring the mean down to the limit, or up to it."""
    ended = ~alive
    first = int(np.argmax(ended)) if ended.any() else len(alive)
    dead = np.arange(len(alive)) >= first
    over_before = dead & (first < len(alive) and bool(rest[min(first, len(alive) - 1)] <= 0.0))
    under_before = dead & ~over_before
    over_now, under_now = missing[1:] < 0.0, missing[1:] > left[1:]
    return over_before | (~dead & over_now), under_before | (~dead & ~over_now & under_now)


def information_path(log_p: Floats) -> Floats:
    """Corrected mutual information (R,) of the first r rounds of one case (M, R, C), nats; see `uncertainty.decompose`.

    Zero dropout part in the first round, where it says nothing.
    """
    members, rounds, _ = log_p.shape
    count = np.arange(1, rounds + 1)
    p = np.exp(log_p)
    per_member = np.cumsum(p, axis=1) / count[None, :, None]
    inside = np.cumsum(_entropy(p).mean(axis=0)) / count
    dropout = _entropy(per_member).mean(axis=0) - inside
    total = _entropy(per_member.mean(axis=0)) - inside
    corrected = np.where(count > 1, dropout * count / np.maximum(count - 1, 1), 0.0)
    return np.asarray(total + corrected / (members * count))


def _entropy(p: Floats) -> Floats:
    return np.asarray(-(p * np.log(np.where(p > 0.0, p, 1.0))).sum(axis=-1))
