"""Stopping early: how often it changes the side, and how many passes it saves.

Ville's inequality bounds the probability of a wrong stop per threshold by the rule's error, for every population of passes. With
B cases a true rate of at most the error exceeds binom.ppf(0.999, B, error) with probability below 1 in 1000.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from pipeline.domain.stopping import FEWEST_ROUNDS, capitals, side_settled

Floats = NDArray[np.float64]
Settled = Callable[[Floats, float, int, float], bool]


def posterior(generator: np.random.Generator, members: int, passes: int, *, concentration: float = 20.0) -> Floats:
    """Finding probabilities (M, T) of one case: mostly confident, members that differ, passes around each member.

    The lower the concentration, the more of the passes are near 0 or 1.
    """
    centre = generator.normal(-3.0, 2.5) + generator.normal(0.0, 0.5, members)
    mean = 1.0 / (1.0 + np.exp(-centre))
    drawn = generator.beta(
        np.maximum(mean * concentration, 1e-3), np.maximum((1 - mean) * concentration, 1e-3), (passes, members)
    )
    return np.asarray(drawn.T)


def run(settled: Settled, x: Floats, threshold: float, error: float) -> int:
    """Rounds made before the rule stops."""
    budget = int(x.shape[1])
    for made in range(FEWEST_ROUNDS, budget):
        if settled(x[:, :made], threshold, budget, error):
            return made
    return budget


def peeking(x: Floats, threshold: float, budget: int, error: float) -> bool:
    """A fixed test at every look, as if it were the only one."""
    return bool(abs(x.mean() - threshold) > x.std() / np.sqrt(x.size))


def test_three_quarters_of_the_passes_are_saved_at_a_low_threshold_and_no_route_changes() -> None:
    generator = np.random.default_rng(0)
    cases = [posterior(generator, 5, 20) for _ in range(1500)]
    made = [run(side_settled, x, 0.05, 0.01) for x in cases]
    flips = sum((x[:, :r].mean() > 0.05) != (x.mean() > 0.05) for x, r in zip(cases, made, strict=True))
    assert 5 * np.mean(made) == pytest.approx(27.6, abs=1.5)  # of 100 passes
    assert flips <= binom.ppf(0.999, len(cases), 0.01)


def clipped_only(x: Floats, threshold: float, budget: int, error: float) -> bool:
    """The bets alone, which know nothing of what was clipped."""
    return max(capitals(x, threshold, budget)) >= 1.0 / error


def flips(settled: Settled, cases: int) -> int:
    """How many of so many cases, whose passes are mostly 0 or 1, are routed on the other side than by the whole budget."""
    generator = np.random.default_rng(2)
    changed = 0
    for _ in range(cases):
        x = posterior(generator, 5, 20, concentration=0.5)
        changed += bool((x[:, : run(settled, x, 0.05, 0.01)].mean() > 0.05) != (x.mean() > 0.05))
    return changed


def test_rare_high_passes_are_not_clipped_away() -> None:
    """The error bounds clipped means only; this holds the means that route to the same bound, and the bets alone break it."""
    bound = binom.ppf(0.999, 400, 0.01)
    assert flips(side_settled, 400) <= bound < flips(clipped_only, 400)


def test_members_of_opposite_opinions_are_looked_at_to_the_end() -> None:
    """Two members are nearly sure of the finding and two of its absence; the mean is exactly the threshold."""
    generator = np.random.default_rng(3)
    wrong = 0
    for _ in range(400):
        sure = generator.beta(9.0, 1.0, (2, 20))
        x = np.concatenate([sure, 1.0 - generator.permuted(sure, axis=1)])
        wrong += run(side_settled, x, 0.5, 0.05) < 20
    assert wrong <= binom.ppf(0.999, 400, 2 * 0.05)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.8])
def test_passes_that_contradict_each_other_do_not_break_the_bound(threshold: float) -> None:
    """The hardest population: its mean is exactly the threshold, half of every member's passes above it and half below."""
    generator = np.random.default_rng(1)
    cases = 800
    high, low = min(1.0, 2.0 * threshold), max(0.0, 2.0 * threshold - 1.0)
    wrong = 0
    for _ in range(cases):
        x = np.stack([generator.permutation(np.repeat([high, low], 10)) for _ in range(4)])
        wrong += run(side_settled, x, threshold, 0.05) < 20
    assert wrong <= binom.ppf(0.999, cases, 2 * 0.05)  # either side may be called


def test_peeking_with_a_fixed_test_breaks_the_same_bound() -> None:
    generator = np.random.default_rng(1)
    wrong = 0
    for _ in range(300):
        x = np.stack([generator.permutation(np.repeat([0.6, 0.0], 10)) for _ in range(4)])
        wrong += run(peeking, x, 0.3, 0.05) < 20
    assert wrong > binom.ppf(0.999, 300, 2 * 0.05)
