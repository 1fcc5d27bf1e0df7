"""How many patients with the finding a certificate needs: before a study is collected, and with what chance of success."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from pipeline.domain.ladder import cases_needed
from pipeline.domain.order_statistic import most_misses
from pipeline.errors import HaltPipeline

MOST_MISSES_SHOWN = 10
_LARGEST = 200_000  # cases at risk beyond which no plan is made


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Cases at risk that certify `alpha` at `delta`.

    `for_misses[k]` is the fewest with k misses among them. `fewest` gives the wanted power if the true rate is `rate`;
    as k must be a whole number the power falls back a little now and then, and from `always` on it never does.
    `patients` are those of all kinds that hold `fewest` with the finding, at `prevalence`.
    """

    alpha: float
    delta: float
    rate: float
    power: float
    for_misses: tuple[int, ...]
    fewest: int
    always: int
    prevalence: float | None = None
    patients: int | None = None


def power(positives: int, *, alpha: float, delta: float, rate: float) -> float:
    """Probability that `positives` cases with a true rate `rate` certify `alpha` at `delta`."""
    allowed = most_misses(positives, alpha, delta)
    return 0.0 if allowed is None else float(binom.cdf(allowed, positives, rate))


def plan(*, alpha: float, delta: float, rate: float, wanted: float = 0.8, prevalence: float | None = None) -> Plan:
    """The plan for one side of a policy; raises HaltPipeline unless 0 <= rate < alpha < 1 and the rest are shares."""
    _check(alpha=alpha, delta=delta, rate=rate, wanted=wanted, prevalence=prevalence)
    reached = _powers(alpha, delta, rate, wanted)
    enough = reached >= wanted
    fewest = int(np.argmax(enough)) + 1
    always = len(enough) - int(np.argmax(~enough[::-1])) + 1
    return Plan(
        alpha=alpha,
        delta=delta,
        rate=rate,
        power=wanted,
        for_misses=tuple(cases_needed(k, alpha, delta) for k in range(MOST_MISSES_SHOWN + 1)),
        fewest=fewest,
        always=always,
        prevalence=prevalence,
        patients=None if prevalence is None else math.ceil(fewest / prevalence - 1e-9),
    )


def _check(*, alpha: float, delta: float, rate: float, wanted: float, prevalence: float | None) -> None:
    shares = [alpha, delta, wanted] + ([] if prevalence is None else [prevalence])
    if not all(math.isfinite(x) and 0.0 < x < 1.0 for x in shares):
        raise HaltPipeline("plan: alpha, delta, power and prevalence lie between 0 and 1; correct them")
    if not 0.0 <= rate < alpha:
        raise HaltPipeline(f"plan: a true rate of {rate} can never certify a limit of {alpha}; give a rate below it")


def _powers(alpha: float, delta: float, rate: float, wanted: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Power of 1, 2, ... cases, on and on until it has been enough for twice as many as it first was."""
    size = 2 * cases_needed(0, alpha, delta)
    while size <= _LARGEST:
        n = np.arange(1, size + 1)
        guess = binom.ppf(delta, n, alpha)
        allowed = np.where(binom.cdf(guess, n, alpha) <= delta, guess, guess - 1.0)
        found = np.where(allowed >= 0, binom.cdf(allowed, n, rate), 0.0)
        if (found >= wanted).any() and (found[size // 2 :] >= wanted).all():
            return np.asarray(found)
        size *= 2
    raise HaltPipeline(f"plan: more than {_LARGEST} cases would be needed; choose a rate further below the limit")
