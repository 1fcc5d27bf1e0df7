"""When a case has been looked at often enough: betting, without replacement, on the side of a threshold.

The budget of N = M·T seeded passes of one case is a finite population whose mean finding probability decides the route.
Passes come in rounds of one per member. At the start of a round, under the hypothesis that the mean of the whole budget
is the threshold, the passes not yet made have the mean m = (N·tau - sum so far) / (N - passes so far). A stake lam is
fixed before the round, and the capital is multiplied by the product over members of 1 + lam (x - m). Given the past the
members' passes are independent, and each is a random draw from what that member has left, with mean mu_j; the mu_j
average to m. By the inequality of arithmetic and geometric means the product's expectation, prod (1 + lam (mu_j - m)), is
at most one. The capital is therefore a non-negative supermartingale although members differ, and by Ville's inequality
it ever reaches 1 / error with probability at most error (Waudby-Smith and Ramdas 2020, arXiv:2006.04347, for draws
without strata). Low thresholds are the hard case, since a probability of 0 says little against 0.05 on a range of one:
x is clipped at four times the threshold and rescaled, and for thresholds above one half everything is mirrored.

The bound is therefore about the clipped mean. Clipping only lowers a mean, so that "above" holds for the passes as they
are, too; "below" could overlook rare high passes. Once a pass lies beyond the clip, "below" has to be won by the passes as
they are as well. Either way a case goes on while the mean that would route it lies on the other side; both only let fewer
cases stop, and the bound stays.

Stopping early makes the sampled mutual information a biased number; a case whose information lies near its limit therefore
goes on to the end. What a certificate vouches for is the scorer with this rule in it, so that flips are part of its rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.domain.stopping_path import CLIP, MOST_AT_STAKE, settled_rounds

Floats = NDArray[np.float64]

FEWEST_ROUNDS = 2
_NEAR = 1.5  # times the limit, either way, counts as near it


class Stop(StrEnum):
    """Why no further pass was made."""

    OFF = "off"  #: One look without dropout was all that was asked.
    BUDGET = "budget"  #: Every pass of the budget was made.
    SETTLED = "settled"  #: The remaining passes would not change the side of any threshold.


@dataclass(frozen=True, kw_only=True)
class StoppingRule:
    """When sampling of a case may stop before `budget` passes of each member.

    `thresholds` are mean finding probabilities before calibration; `information_limit` is in nats. Raises ValueError
    where a number is out of its range.
    """

    budget: int
    error: float  #: largest probability, per threshold, of stopping on the other side than the whole budget's
    thresholds: tuple[float, ...]
    information_limit: float

    def __post_init__(self) -> None:
        inside = all(np.isfinite(t) and 0.0 < t < 1.0 for t in self.thresholds)
        if self.budget < FEWEST_ROUNDS or not 0.0 < self.error < 1.0 or not inside:
            raise ValueError("a stopping rule needs at least two passes, an error and thresholds between 0 and 1")
        if not (np.isfinite(self.information_limit) and self.information_limit >= 0.0):
            raise ValueError("a stopping rule needs a finite limit of the mutual information, at least 0")

    def is_settled(self, finding: ArrayLike, information: float) -> bool:
        """Whether no further pass is needed, from the finding probabilities (M, r) of the rounds made.

        `information` is the corrected mutual information of these rounds, nats. Without thresholds nothing ever is.
        """
        seen = np.asarray(finding, dtype=np.float64)
        if not self.thresholds or seen.ndim != 2 or seen.shape[1] < FEWEST_ROUNDS or not np.isfinite(seen).all():
            return False
        if not np.isfinite(information) or self._is_near_limit(information):
            return False
        return all(side_settled(seen, threshold, self.budget, self.error) for threshold in self.thresholds)

    def first_settled(self, finding: ArrayLike, information: ArrayLike) -> int | None:
        """The fewest rounds after which no further pass is needed, by `is_settled`, or None where there are none yet.

        `finding` (M, R) are the rounds made, `information` (R,) is the corrected mutual information after each of them.
        """
        seen, told = np.asarray(finding, dtype=np.float64), np.asarray(information, dtype=np.float64)
        if not self.thresholds or seen.ndim != 2 or not np.isfinite(seen).all():
            return None
        open_ = (self.information_limit / _NEAR < told) & (told < self.information_limit * _NEAR)
        settled = np.isfinite(told) & ~open_ & (np.arange(1, seen.shape[1] + 1) >= FEWEST_ROUNDS)
        for threshold in self.thresholds:
            settled &= settled_rounds(seen, threshold, self.budget, self.error)
        return int(np.argmax(settled)) + 1 if settled.any() else None

    def _is_near_limit(self, information: float) -> bool:
        return self.information_limit / _NEAR < information < self.information_limit * _NEAR

    def to_dict(self) -> dict[str, Any]:
        """JSON-able content; the inverse of `from_dict`."""
        return {
            "budget": self.budget,
            "error": self.error,
            "thresholds": list(self.thresholds),
            "information_limit": self.information_limit,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> StoppingRule:
        """The rule in `content`; raises KeyError, TypeError or ValueError where it is not one."""
        return cls(
            budget=int(content["budget"]),
            error=float(content["error"]),
            thresholds=tuple(float(t) for t in content["thresholds"]),
            information_limit=float(content["information_limit"]),
        )


def side_settled(finding: Floats, threshold: float, budget: int, error: float) -> bool:
    """Whether the side of `threshold` on which the mean over the whole budget lies is settled at `error`.

    `finding` (M, r) are probabilities in the order of the rounds; their mean lies on the side that is settled.
    """
    values, limit = _mirrored(finding, threshold)
    mean, enough = float(values.mean()), 1.0 / error
    above, below = capitals(finding, threshold, budget)
    if above >= enough and mean > limit:
        return True
    if below < enough or mean >= limit:
        return False
    return bool(values.max() <= CLIP * limit) or capitals(finding, threshold, budget, clip=np.inf)[1] >= enough


def capitals(finding: Floats, threshold: float, budget: int, *, clip: float = CLIP) -> tuple[float, float]:
    """The largest capital reached by betting that the budget's mean is above `threshold`, and below it.

    `clip` is in multiples of the threshold. Infinite where the passes not yet made can no longer change the side. For
    thresholds above one half the two are exchanged, because everything is mirrored.
    """
    values, null = _rescaled(finding, threshold, clip)
    members, rounds = values.shape
    total = members * budget
    above = below = highest_above = highest_below = 1.0
    for number in range(rounds):
        past = values[:, :number]
        rest = (total * null - past.sum()) / (total - past.size)
        if not 0.0 < rest < 1.0:
            return (np.inf, highest_below) if rest <= 0.0 else (highest_above, np.inf)
        up, down = _stakes(past, rest)
        gains = values[:, number] - rest
        above *= float(np.prod(1.0 + up * gains))
        below *= float(np.prod(1.0 - down * gains))
        highest_above, highest_below = max(highest_above, above), max(highest_below, below)
    return _after_all(values, null, total, (highest_above, highest_below))


def _after_all(values: Floats, null: float, total: int, reached: tuple[float, float]) -> tuple[float, float]:
    """The same, after the last round: what remains may settle the side by itself."""
    remaining = total - values.size
    missing = total * null - float(values.sum())
    if missing < 0.0:
        return np.inf, reached[1]
    return (reached[0], np.inf) if missing > remaining else reached


def _rescaled(finding: Floats, threshold: float, clip: float) -> tuple[Floats, float]:
    """Probabilities clipped and rescaled to [0, 1], mirrored for high thresholds, and the mean they are held against."""
    values, limit = _mirrored(finding, threshold)
    ceiling = min(1.0, clip * limit)
    return np.minimum(values, ceiling) / ceiling, limit / ceiling


def _mirrored(finding: Floats, threshold: float) -> tuple[Floats, float]:
    """Probabilities and threshold as they are, or those of the opposite where the threshold is above one half."""
    return (finding, threshold) if threshold <= 0.5 else (1.0 - finding, 1.0 - threshold)


def _stakes(past: Floats, rest: float) -> tuple[float, float]:
    """What is put on "above" and on "below": approximate growth-optimal from the past, half of the most at first."""
    most_up, most_down = MOST_AT_STAKE / rest, MOST_AT_STAKE / (1.0 - rest)
    if not past.size:
        return most_up / 2.0, most_down / 2.0
    mean = (0.5 + past.sum()) / (past.size + 1.0)
    spread = (0.25 + ((past - mean) ** 2).sum()) / (past.size + 1.0)
    edge = mean - rest
    stake = edge / (spread + edge**2)
    return float(np.clip(stake, 0.0, most_up)), float(np.clip(-stake, 0.0, most_down))
