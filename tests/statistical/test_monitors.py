"""The watches over long streams: how often they cry wolf, and how soon they notice.

Ville's inequality bounds false alarms by delta for ever. Of R honest runs more than binom.ppf(0.999, R, delta) alarm with
probability below 1 in 1000. Medians of delays are compared with reference figures within about three standard errors.
"""

from __future__ import annotations

import bisect

import numpy as np
import pytest
from scipy.stats import binom

from pipeline.domain.martingales import EXPERTS, JUMP, MULTIPLES

pytestmark = pytest.mark.statistical

RATE, DELTA = 0.01, 0.05


def first_alarms(true_rate: float, runs: int, reads: int, seed: int) -> np.ndarray:
    """Read at which each run of the miss e-process alarms, or `reads` + 1; vectorised, the same bets as `MissWatch`."""
    misses = np.random.default_rng(seed).random((runs, reads)) < true_rate
    bets = np.array(MULTIPLES) * RATE
    logs = np.zeros((runs, len(bets)))
    found = np.full(runs, reads + 1)
    for read in range(reads):
        miss = misses[:, [read]]
        logs += np.where(miss, np.log(bets / RATE), np.log((1 - bets) / (1 - RATE)))
        alarmed = (np.logaddexp.reduce(logs, axis=1) >= np.log(len(bets) / DELTA)) & (found > reads)
        found[alarmed] = read + 1
    return found


def test_a_rate_as_certified_hardly_ever_alarms_however_long_it_is_watched() -> None:
    runs, reads = 1000, 5000
    at_limit = (first_alarms(RATE, runs, reads, 0) <= reads).sum()
    below = (first_alarms(RATE / 2, runs, reads, 1) <= reads).sum()
    assert at_limit <= binom.ppf(0.999, runs, DELTA)
    assert at_limit / runs == pytest.approx(0.021, abs=0.015)
    assert below / runs <= 0.01


@pytest.mark.parametrize(
    ("rate", "median", "tolerance"), [(0.02, 863, 170), (0.03, 231, 50), (0.05, 75, 18), (0.10, 24, 7)]
)
def test_a_higher_rate_is_noticed_after_about_as_many_audits(rate: float, median: int, tolerance: int) -> None:
    assert np.median(first_alarms(rate, 600, 6000, 2)) == pytest.approx(median, abs=tolerance)


def stream_alarms(
    reference: int, cases: int, runs: int, shift: float, seed: int, *, online: bool, delta: float = 0.01
) -> np.ndarray:
    """Case at which the jumper alarms in each run, or `cases` + 1, with ranks online or against the fixed reference."""
    generator = np.random.default_rng(seed)
    found = np.full(runs, cases + 1)
    for run in range(runs):
        seen = sorted(generator.normal(size=reference).tolist())
        capital = np.full(len(EXPERTS), 1 / len(EXPERTS))
        for case, score in enumerate(generator.normal(shift, 1.0, cases).tolist()):
            p = (len(seen) - bisect.bisect_right(seen, score) + generator.random()) / (len(seen) + 1)
            capital = (1 - JUMP) * capital + JUMP * capital.sum() / len(EXPERTS)
            capital *= 1 + np.array(EXPERTS) * (p - 0.5)
            if online:
                bisect.insort(seen, score)
            if capital.sum() >= 1 / delta:
                found[run] = case + 1
                break
    return found


@pytest.mark.slow
def test_ranks_taken_online_keep_the_promise_and_a_fixed_reference_breaks_it() -> None:
    runs, cases = 300, 3000
    honest = int((stream_alarms(200, cases, runs, 0.0, 0, online=True) <= cases).sum())
    fixed = int((stream_alarms(200, cases, runs, 0.0, 0, online=False) <= cases).sum())
    assert honest <= binom.ppf(0.999, runs, 0.01)
    assert fixed / runs == pytest.approx(0.187, abs=0.07)
    assert fixed > binom.ppf(0.999, runs, 0.01)


@pytest.mark.parametrize(("shift", "latest"), [(0.25, 340), (0.5, 97), (1.0, 45)])
def test_a_shift_of_the_scores_is_noticed_within_as_many_cases_as_published(shift: float, latest: int) -> None:
    """Medians of 340, 97 and 45 cases are published for shifts of a quarter, half and one standard deviation."""
    found = stream_alarms(1000, 2000, 60, shift, 3, online=True)
    assert np.median(found) <= latest
    assert np.median(found) > 10  # a shift is not noticed before there is evidence of it
