from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from pipeline.domain.ladder import (
    cases_needed,
    climb,
    clopper_pearson_upper,
    exact_p_value,
    ladder_from,
    misses_at,
    predicted_start,
    smallest_certifiable,
)

# Cases at risk that certify a limit, by misses seen: (limit, delta 5 %, delta 1 %).
SAMPLE_SIZES = {
    0: [(0.005, 598, 919), (0.01, 299, 459), (0.02, 149, 228), (0.05, 59, 90), (0.1, 29, 44)],
    1: [(0.005, 947, 1325), (0.01, 473, 662), (0.02, 236, 330), (0.05, 93, 130), (0.1, 46, 64)],
    2: [(0.005, 1258, 1678), (0.01, 628, 838), (0.02, 313, 418), (0.05, 124, 165), (0.1, 61, 81)],
    3: [(0.005, 1549, 2006), (0.01, 773, 1001), (0.02, 386, 499), (0.05, 153, 198), (0.1, 76, 97)],
    5: [(0.005, 2100, 2618), (0.01, 1049, 1307), (0.02, 523, 652), (0.05, 208, 259), (0.1, 103, 127)],
    10: [(0.005, 3389, 4024), (0.01, 1693, 2010), (0.02, 845, 1003), (0.05, 336, 398), (0.1, 167, 197)],
}


@pytest.mark.parametrize("misses", SAMPLE_SIZES)
def test_sample_sizes_are_the_published_ones(misses: int) -> None:
    for alpha, at_five, at_one in SAMPLE_SIZES[misses]:
        assert cases_needed(misses, alpha, 0.05) == at_five
        assert cases_needed(misses, alpha, 0.01) == at_one


@pytest.mark.parametrize("misses", SAMPLE_SIZES)
def test_one_case_fewer_does_not_certify(misses: int) -> None:
    for alpha, needed, _ in SAMPLE_SIZES[misses]:
        assert exact_p_value(misses, needed, alpha) <= 0.05 < exact_p_value(misses, needed - 1, alpha)


@pytest.mark.parametrize(
    ("alpha", "share", "at_eighty", "at_ninety"),
    [(0.01, 2, 1945, 2550), (0.02, 2, 970, 1275), (0.05, 2, 390, 510), (0.01, 4, 775, 915), (0.02, 4, 390, 460)],
)
def test_the_chance_to_certify_is_the_published_one(alpha: float, share: int, at_eighty: int, at_ninety: int) -> None:
    def chance(n: int) -> float:
        most = max((k for k in range(n) if exact_p_value(k, n, alpha) <= 0.05), default=-1)
        return float(binom.cdf(most, n, alpha / share))

    assert chance(at_eighty) >= 0.8
    assert chance(at_ninety) >= 0.9
    assert chance(round(0.9 * at_eighty)) < 0.8


@settings(max_examples=300, deadline=None, derandomize=True)
@given(n=st.integers(1, 400), share=st.floats(0, 1), alpha=st.sampled_from([0.005, 0.01, 0.05, 0.1, 0.5]))
def test_the_p_value_is_the_sum_of_binomial_probabilities(n: int, share: float, alpha: float) -> None:
    k = int(share * n)
    total = math.fsum(math.comb(n, i) * alpha**i * (1 - alpha) ** (n - i) for i in range(k + 1))
    assert exact_p_value(k, n, alpha) == pytest.approx(total, rel=1e-9, abs=1e-300)


def test_without_cases_nothing_is_proven() -> None:
    assert exact_p_value(0, 0, 0.05) == 1.0


@pytest.mark.parametrize(
    ("k", "n", "bound"), [(0, 100, 0.0295), (0, 300, 0.0099), (0, 1000, 0.0030), (5, 5, 1.0), (0, 0, 1.0)]
)
def test_upper_bounds_follow_the_rule_of_three(k: int, n: int, bound: float) -> None:
    assert clopper_pearson_upper(k, n, 0.05) == pytest.approx(bound, abs=1e-4)


@pytest.mark.parametrize(("k", "n"), [(0, 20), (3, 50), (17, 400), (199, 200)])
def test_the_upper_bound_is_where_the_test_turns(k: int, n: int) -> None:
    bound = clopper_pearson_upper(k, n, 0.05)
    assert exact_p_value(k, n, bound - 1e-6) > 0.05 > exact_p_value(k, n, bound + 1e-6)


@pytest.mark.parametrize(("k", "n", "delta"), [(-1, 5, 0.05), (6, 5, 0.05), (1, 5, 0.0), (1, 5, 1.0)])
def test_an_impossible_bound_is_refused(k: int, n: int, delta: float) -> None:
    with pytest.raises(ValueError, match="0 <= k <= n"):
        clopper_pearson_upper(k, n, delta)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (4, 200)])
def test_the_smallest_certifiable_limit_is_certifiable_and_nearly_the_bound(k: int, n: int) -> None:
    limit = smallest_certifiable(k, n, 0.05)
    assert limit is not None
    assert exact_p_value(k, n, limit) <= 0.05
    assert limit - clopper_pearson_upper(k, n, 0.05) <= 1e-6


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 3)])
def test_no_limit_is_certifiable_without_cases_or_when_all_are_missed(k: int, n: int) -> None:
    assert smallest_certifiable(k, n, 0.05) is None


def test_rungs_are_distinct_scores_at_quantiles() -> None:
    scores = np.arange(1.0, 101.0)
    rungs = ladder_from(scores)
    assert len(rungs) == 32
    assert (rungs[0], rungs[-1]) == (2.0, 98.0)
    assert set(rungs) <= set(scores)
    assert (np.diff(rungs) > 0).all()


def test_gated_cases_make_no_rung() -> None:
    assert np.isfinite(ladder_from(np.array([0.1, 0.2, np.inf, np.inf]))).all()
    assert ladder_from(np.array([np.inf, np.inf])).size == 0
    assert ladder_from(np.array([])).size == 0


def test_tied_scores_make_one_rung() -> None:
    assert ladder_from(np.full(50, 0.3)).tolist() == [0.3]


def test_a_case_on_the_threshold_is_a_miss() -> None:
    scores, at_risk = np.array([0.1, 0.2, 0.2, 0.3, np.inf]), np.array([True, True, False, True, True])
    assert misses_at(np.array([0.05, 0.1, 0.2, 0.3]), scores, at_risk) == [0, 1, 2, 3]


def test_climbing_stops_at_the_first_failure_and_never_jumps_it() -> None:
    assert climb([0.01, 0.02, 0.2, 0.01], 0, 0.05) == 1
    assert climb([0.2, 0.01], 0, 0.05) is None
    assert climb([0.2, 0.01, 0.04], 1, 0.05) == 2
    assert climb([0.05], 0, 0.05) == 0
    assert climb([math.nan, 0.0], 0, 0.05) is None
    assert climb([], 0, 0.05) is None


def test_the_start_is_where_tune_predicts_the_smallest_p_value() -> None:
    assert predicted_start([0, 0, 3, 9], 100, 200, 0.05) == 0
    assert predicted_start([4, 1, 3], 100, 200, 0.05) == 1
    assert predicted_start([4, 1, 3], 100, 0, 0.05) == 0
    assert predicted_start([0, 5], 5, 10, 0.05) == 0
