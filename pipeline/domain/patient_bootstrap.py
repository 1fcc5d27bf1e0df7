"""Confidence intervals by resampling patients, not cases: the cases of one patient are never independent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]
Statistic = Callable[[Indices], float]

DRAWS = 2000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its percentile interval; `undefined` draws gave no finite value and are left out."""

    estimate: float
    low: float
    high: float
    draws: int
    undefined: int


def cluster_bootstrap(
    statistic: Statistic, patients: Sequence[str], *, seed: int, draws: int = DRAWS, level: float = 0.95
) -> Interval:
    """Interval of a statistic of case indices, resampling whole patients with replacement.

    `patients` (N,) names the patient of every case. Low and high are NaN when no draw is defined.
    """
    if len(patients) == 0:
        raise ValueError("a bootstrap needs at least one case")
    values = np.array([statistic(sample) for sample in resamples(patients, seed, draws)], dtype=np.float64)
    defined = values[np.isfinite(values)]
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(defined, [tail, 1.0 - tail]) if defined.size else (np.nan, np.nan)
    return Interval(
        estimate=float(statistic(np.arange(len(patients)))),
        low=float(low),
        high=float(high),
        draws=draws,
        undefined=int(draws - defined.size),
    )


def paired_difference(
    first: Statistic, second: Statistic, patients: Sequence[str], *, seed: int, draws: int = DRAWS, level: float = 0.95
) -> Interval:
    """Interval of first - second, both computed on the same resampled patients."""
    return cluster_bootstrap(
        lambda sample: first(sample) - second(sample), patients, seed=seed, draws=draws, level=level
    )


def resamples(patients: Sequence[str], seed: int, draws: int) -> Iterator[Indices]:
    """`draws` samples of case indices, each of as many patients as there are, drawn whole and with replacement."""
    generator = np.random.default_rng(seed)
    _, group = np.unique(np.asarray(patients), return_inverse=True)
    order = np.argsort(group, kind="stable")
    cases = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    for _ in range(draws):
        yield np.concatenate([cases[i] for i in generator.integers(len(cases), size=len(cases))])
