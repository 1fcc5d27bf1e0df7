"""Calibration errors beside their null, the Brier score taken apart, and labels answered one by one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression

from pipeline.domain.brier import brier_decomposition
from pipeline.domain.calibration_error import ReliabilityBin, null_band, sweep_error
from pipeline.domain.calibration_table import calibration_table, classwise_error, finding_error
from pipeline.domain.labels_uncertainty import decompose_labels, known, label_nll
from pipeline.domain.platt import fit_platt
from pipeline.errors import DeferCase, HaltPipeline

NAMES = ["equal_width", "equal_mass", "sweep", "debiased", "class_wise", "finding"]


def drawn(n: int, sharpness: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels drawn from them, after they were sharpened: above 1 the model is under-confident."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, (n, 3))
    true = np.exp(sharpness * logits)
    true /= true.sum(axis=1, keepdims=True)
    shown = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return shown, np.array([generator.choice(3, p=row) for row in true])


def test_a_calibrated_model_lies_inside_every_null_and_an_overconfident_one_in_none() -> None:
    right = calibration_table(*drawn(500), [1], seed=0, draws=100)
    wrong = calibration_table(*drawn(500, 0.3), [1], seed=0, draws=100)
    assert [line.name for line in right] == NAMES
    assert all(line.inside for line in right)
    assert not any(line.inside for line in wrong)
    assert all(line.null_low <= line.null_median <= line.null_95 for line in right)


def test_the_table_repeats_exactly_for_a_seed() -> None:
    assert calibration_table(*drawn(60), [1], seed=3, draws=20) == calibration_table(*drawn(60), [1], seed=3, draws=20)


def test_class_wise_and_finding_errors_are_the_binary_ones() -> None:
    p = np.array([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.2, 0.8]])
    labels = np.array([0, 1, 1, 1])
    assert finding_error(p, labels, [1]) == pytest.approx((abs(0.2 - 0.5) + abs(0.8 - 1.0)) / 2)
    assert classwise_error(p, labels) == pytest.approx(0.25)


def test_the_sweep_stops_before_frequencies_fall() -> None:
    """Two bins rise (1/4, 3/4), three do not (1/2, 0, 1 by thirds): the error is that of two."""
    p = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7])
    y = np.array([0, 1, 0, 0, 1, 1])
    two = (abs(0.2 - 1 / 3) + abs((0.4 + 0.6 + 0.7) / 3 - 2 / 3)) / 2
    assert sweep_error(p, y) == pytest.approx(two)


def test_the_sweep_of_one_or_of_tied_cases_is_the_error_of_one_bin() -> None:
    assert sweep_error([0.7], [1]) == pytest.approx(0.3)
    assert sweep_error([0.7] * 4, [1, 0, 1, 0]) == pytest.approx(0.2)


def test_the_null_band_is_binomial() -> None:
    ((low, high),) = null_band([ReliabilityBin(lowest=0.0, highest=1.0, n=20, confidence=0.7, frequency=0.5)])
    assert (low, high) == (binom.ppf(0.025, 20, 0.7) / 20, binom.ppf(0.975, 20, 0.7) / 20)


@pytest.mark.parametrize("seed", range(5))
def test_the_parts_of_the_brier_score_add_up_exactly(seed: int) -> None:
    p, labels = drawn(90, seed=seed)
    found = brier_decomposition(p[:, 1], labels == 1)
    total = found.reliability - found.resolution + found.uncertainty + found.within
    corrected = found.reliability_corrected - found.resolution_corrected + found.uncertainty_corrected + found.within
    assert found.brier == pytest.approx(total, abs=1e-12)
    assert corrected == pytest.approx(total, abs=1e-12)


def test_the_parts_by_hand() -> None:
    """Two bins of two: means 0.2 and 0.9, frequencies 0.5 and 1; base rate 0.75."""
    found = brier_decomposition([0.2, 0.2, 0.9, 0.9], [0, 1, 1, 1], bins=2)
    assert found.reliability == pytest.approx((0.3**2 + 0.1**2) / 2)
    assert found.resolution == pytest.approx(0.25**2)
    assert found.uncertainty == pytest.approx(0.1875)
    assert found.within == pytest.approx(0.0)
    assert found.reliability_corrected == pytest.approx(found.reliability - 0.5 * 0.25)


def test_one_case_and_one_outcome_have_parts_too() -> None:
    found = brier_decomposition([0.7], [1])
    assert (found.brier, found.uncertainty, found.resolution) == (pytest.approx(0.09), 0.0, 0.0)
    with pytest.raises(ValueError, match="at least one"):
        brier_decomposition([], [])


def test_each_label_is_a_question_of_two_answers() -> None:
    z = np.array([[[[0.3, -1.2]]], [[[0.9, -0.2]]]])
    found = decompose_labels(z)
    p = 1 / (1 + np.exp(-z[:, 0, 0]))
    mean = p.mean(axis=0)

    def entropy(q: np.ndarray) -> np.ndarray:
        return -(q * np.log(q) + (1 - q) * np.log(1 - q))

    assert found.probability[0] == pytest.approx(mean)
    assert found.predictive_entropy[0] == pytest.approx(entropy(mean))
    assert found.mi_member[0] == pytest.approx(entropy(mean) - entropy(p).mean(axis=0))
    assert found.case_score[0] == pytest.approx(mean.max())
    assert found.information_bound[0] == pytest.approx(found.mutual_information.sum())
    assert (found.dropout_available, found.member_available) == (False, True)


def test_extreme_logits_stay_finite_and_labels_do_not_share_a_softmax() -> None:
    found = decompose_labels(np.array([[[[1e4, 1e4, -1e4]]], [[[1e4, 1e4, -1e4]]]]))
    assert found.probability[0] == pytest.approx([1.0, 1.0, 0.0])
    assert np.isfinite(found.predictive_entropy).all()
    assert found.mutual_information == pytest.approx(0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_label_that_is_not_finite_defers_the_case(value: float) -> None:
    with pytest.raises(DeferCase, match="not finite"):
        decompose_labels(np.array([[[[0.0, value]]]]))


def test_logits_without_an_axis_and_labels_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="axes"):
        decompose_labels(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="unknown"):
        known([[0.5]])


def test_unknown_labels_count_nowhere() -> None:
    z = np.array([[0.0, 1.0], [2.0, -1.0]])
    y = np.array([[1.0, np.nan], [0.0, np.nan]])
    found = label_nll(z, y)
    assert found[0] == pytest.approx((np.log(2) + np.log1p(np.exp(2))) / 2)
    assert np.isnan(found[1])


def test_platt_is_logistic_regression_where_a_label_has_enough_of_both() -> None:
    generator = np.random.default_rng(1)
    z = generator.normal(0, 2, (1500, 2))
    y = (generator.random((1500, 2)) < 1 / (1 + np.exp(-(0.6 * z + 0.8)))).astype(float)
    y[60:, 1] = np.nan  # the second label is known of sixty cases only
    found = fit_platt(z, y)
    oracle = LogisticRegression(C=1e9, tol=1e-10).fit(z[:, :1], y[:, 0])
    assert found.shared.tolist() == [False, True]
    assert found.slope[0] == pytest.approx(oracle.coef_[0, 0], rel=1e-3)
    assert found.offset[0] == pytest.approx(oracle.intercept_[0], abs=1e-3)
    assert found.offset[1] == 0.0
    assert found.apply(z)[:, 0] == pytest.approx(z[:, 0] * found.slope[0] + found.offset[0])


def test_labels_that_contradict_the_model_have_no_slope() -> None:
    z = np.array([[3.0], [-3.0]] * 30)
    with pytest.raises(HaltPipeline, match="no slope"):
        fit_platt(z, (z < 0).astype(float))
    with pytest.raises(ValueError, match="known"):
        fit_platt(z, np.full(z.shape, np.nan))
