from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from pipeline.domain.calibration import (
    Binning,
    calibration_error,
    debiased_squared_error,
    ece,
    ece_null,
    reliability_bins,
)


def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences in [0, 1] and outcomes that follow them exactly."""
    generator = np.random.default_rng(seed)
    p = generator.random(n)
    return p, (generator.random(n) < p).astype(float)


def test_two_bins_worked_by_hand() -> None:
    p, y = [0.1, 0.3, 0.6, 0.8], [0, 1, 1, 1]
    assert calibration_error(p, y, bins=2) == pytest.approx((abs(0.2 - 0.5) + abs(0.7 - 1.0)) / 2)
    assert calibration_error(p, y, bins=2, binning=Binning.EQUAL_WIDTH) == pytest.approx(0.3)
    # Less the chance of bins of two: frequency (1 - frequency) / (n - 1) = 0.25 in the lower bin and 0 in the upper.
    assert debiased_squared_error(p, y, bins=2) == pytest.approx((0.09 - 0.25 + 0.09) / 2)


def test_bins_agree_with_scikit_learn() -> None:
    p, y = drawn(600, 0)
    for binning, strategy in ((Binning.EQUAL_WIDTH, "uniform"), (Binning.EQUAL_MASS, "quantile")):
        frequency, confidence = calibration_curve(y, p, n_bins=15, strategy=strategy)
        found = reliability_bins(p, y, bins=15, binning=binning)
        np.testing.assert_allclose([b.frequency for b in found], frequency, atol=0.03)
        np.testing.assert_allclose([b.confidence for b in found], confidence, atol=0.003)


def test_the_error_is_the_one_of_plain_loops() -> None:
    p = np.random.default_rng(1).random(500)
    y = np.random.default_rng(2).integers(2, size=500)
    wide = [(p >= k / 10) & (p < (k + 1) / 10) for k in range(10)]
    even = np.array_split(np.argsort(p), 10)
    for groups, binning in ((wide, Binning.EQUAL_WIDTH), (even, Binning.EQUAL_MASS)):
        looped = sum(abs(p[g].mean() - y[g].mean()) * len(p[g]) for g in groups) / 500
        assert calibration_error(p, y, bins=10, binning=binning) == pytest.approx(looped, abs=1e-12)


def test_bins_hold_every_case_once_and_nearly_as_many_each() -> None:
    found = reliability_bins(*drawn(1000, 2), bins=15)
    assert len(found) == 15
    assert sum(b.n for b in found) == 1000
    assert {b.n for b in found} == {66, 67}
    assert all(lower.highest < upper.lowest for lower, upper in pairwise(found))


def test_ties_are_never_split() -> None:
    p = np.repeat([0.2, 0.5, 0.9], [40, 7, 53])
    found = reliability_bins(p, np.ones(100), bins=15)
    assert [(b.lowest, b.highest, b.n) for b in found] == [(0.2, 0.2, 40), (0.5, 0.5, 7), (0.9, 0.9, 53)]


def test_a_bin_of_one_case_joins_its_lower_neighbour() -> None:
    found = reliability_bins([0.1, 0.1, 0.2, 0.3], [0, 1, 0, 1], bins=4)
    assert all(b.n >= 2 for b in found)
    assert sum(b.n for b in found) == 4


@pytest.mark.parametrize("n", [1, 2, 3])
def test_very_few_cases_still_have_an_error(n: int) -> None:
    assert 0 <= calibration_error([0.7] * n, [1] * n) <= 1


def test_the_order_of_cases_does_not_matter() -> None:
    p, y = drawn(300, 3)
    p = np.round(p, 1)
    order = np.random.default_rng(0).permutation(300)
    assert calibration_error(p[order], y[order]) == pytest.approx(calibration_error(p, y), abs=1e-12)


@pytest.mark.parametrize(
    ("p", "y"), [([], []), ([0.5], [0, 1]), ([1.1], [1]), ([-0.1], [0]), ([float("nan")], [0]), ([0.5], [0.5])]
)
def test_impossible_confidences_and_outcomes_are_refused(p: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match=r"."):
        calibration_error(p, y)


def test_a_model_that_lies_stands_out_from_its_null() -> None:
    generator = np.random.default_rng(4)
    p = generator.dirichlet([0.3, 0.3], size=400)
    honest = (p.cumsum(axis=1) < generator.random((400, 1))).sum(axis=1)
    null = ece_null(p, seed=0)
    assert ece(p, honest) < np.quantile(null, 0.99)
    assert ece(p, generator.integers(2, size=400)) > null.max()


def test_the_null_is_sorted_repeatable_and_as_long_as_asked() -> None:
    p = np.random.default_rng(5).dirichlet([1.0, 1.0], size=100)
    first = ece_null(p, seed=3, draws=50)
    assert first.shape == (50,)
    assert (np.diff(first) >= 0).all()
    np.testing.assert_array_equal(first, ece_null(p, seed=3, draws=50))
