"""Choosing among certified thresholds by how many reads a day a department can do; the risk is never relaxed for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binom

from pipeline.domain.ladder import Rung, clopper_pearson_upper

BUSY_DAY = 0.95  #: quantile of daily reads that must fit


@dataclass(frozen=True, kw_only=True)
class Fits:
    """The certified rung with the fewest deferrals that fits, and how many reads a busy day brings."""

    rung: Rung
    deferral_upper: float
    reads_on_a_busy_day: int

    def sentence(self) -> str:
        """The choice in one plain sentence."""
        return f"On 95 of 100 days at most {self.reads_on_a_busy_day} studies are deferred; that fits."


@dataclass(frozen=True, kw_only=True)
class Infeasible:
    """No certified rung fits: more readers or a better model are needed, not a higher risk."""

    capacity: int
    fewest_reads: int | None  #: on a busy day under the least deferring certified rung; None where nothing is certified

    def sentence(self) -> str:
        """The answer in one plain sentence."""
        if self.fewest_reads is None:
            return "Infeasible: no threshold is certified, so every study is deferred."
        return (
            f"Infeasible: the certified policy brings up to {self.fewest_reads} deferred studies on a busy day, and "
            f"{self.capacity} can be read; the limit on misses is not relaxed for that."
        )


def choose_rung(
    certified: Sequence[Rung],
    deferred: Sequence[int],
    cases: int,
    *,
    studies_per_day: int,
    capacity: int,
    delta: float = 0.05,
) -> Fits | Infeasible:
    """The rung with the smallest deferral among `certified`, if `capacity` reads a day suffice on 95 of 100 days.

    `deferred[i]` of `cases` certify cases were not handled at rung i; the upper bound of that rate, at confidence
    1 - delta, makes the day. Raises ValueError where the counts do not belong together.
    """
    if len(certified) != len(deferred) or any(not 0 <= k <= cases for k in deferred) or studies_per_day < 1:
        raise ValueError("needs one count of deferred cases per certified rung and at least one study a day")
    if not certified or cases == 0:
        return Infeasible(capacity=capacity, fewest_reads=None)
    best = min(range(len(certified)), key=lambda i: deferred[i])
    upper = clopper_pearson_upper(deferred[best], cases, delta)
    reads = int(binom.ppf(BUSY_DAY, studies_per_day, upper))
    if reads > capacity:
        return Infeasible(capacity=capacity, fewest_reads=reads)
    return Fits(rung=certified[best], deferral_upper=upper, reads_on_a_busy_day=reads)
