"""Agreement of two raters on the same cases: the share they agree on, and Cohen's kappa with its interval.

Kappa compares the agreement seen with what raters with these frequencies would reach by chance. Its interval is the large-
sample one (Fleiss, Cohen and Everitt 1969), for independent cases; two of one patient count as independent here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import norm

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How two raters agree on `n` cases; what is undefined is None, and `said` tells why."""

    n: int
    agreement: float | None  #: share of cases with the same answer
    kappa: float | None
    low: float | None  #: of the 95 % interval of kappa
    high: float | None
    said: str = ""


def agreement_of(pairs: Sequence[tuple[str, str]]) -> Agreement:
    """The agreement over pairs of answers, the first rater's and the second's."""
    n = len(pairs)
    if not n:
        return Agreement(n=0, agreement=None, kappa=None, low=None, high=None, said="no case was read by both")
    seen = sum(first == second for first, second in pairs) / n
    firsts, seconds = Counter(first for first, _ in pairs), Counter(second for _, second in pairs)
    chance = sum(firsts[answer] * seconds[answer] for answer in firsts) / n**2
    if math.isclose(chance, 1.0):
        said = "kappa is undefined: both gave one and the same answer every time"
        return Agreement(n=n, agreement=seen, kappa=None, low=None, high=None, said=said)
    kappa = (seen - chance) / (1.0 - chance)
    error = _standard_error(pairs, firsts, seconds, seen, chance)
    if error == 0.0:
        said = "no interval: the cases are too few or too alike to show how far kappa may be off"
        return Agreement(n=n, agreement=seen, kappa=kappa, low=None, high=None, said=said)
    half = float(norm.ppf(0.5 + CONFIDENCE / 2.0)) * error
    return Agreement(n=n, agreement=seen, kappa=kappa, low=max(-1.0, kappa - half), high=min(1.0, kappa + half))


def _standard_error(
    pairs: Sequence[tuple[str, str]], firsts: Counter[str], seconds: Counter[str], seen: float, chance: float
) -> float:
    n = len(pairs)
    kappa = (seen - chance) / (1.0 - chance)
    same = off = 0.0
    for (first, second), count in Counter(pairs).items():
        if first == second:
            same += count / n * (1.0 - (firsts[first] + seconds[first]) / n * (1.0 - kappa)) ** 2
        else:
            off += count / n * ((firsts[second] + seconds[first]) / n) ** 2
    variance = same + (1.0 - kappa) ** 2 * off - (kappa - chance * (1.0 - kappa)) ** 2
    return math.sqrt(max(0.0, variance) / n) / (1.0 - chance) if variance > 1e-12 else 0.0


def rate_interval(events: int, cases: int) -> tuple[float, float] | None:
    """The 95 % interval of a rate after Wilson; None without cases."""
    if not cases:
        return None
    z, rate = float(norm.ppf(0.5 + CONFIDENCE / 2.0)), events / cases
    middle = (rate + z**2 / (2 * cases)) / (1 + z**2 / cases)
    half = z / (1 + z**2 / cases) * math.sqrt(rate * (1 - rate) / cases + z**2 / (4 * cases**2))
    return max(0.0, middle - half), min(1.0, middle + half)
