from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from pipeline.domain.selective import augrc, aurc, auroc, e_aurc, failure_auroc, risk_coverage

CASES = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=60)


def split(cases: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([f for f, _ in cases], dtype=float), np.array([c for _, c in cases], dtype=float)


def test_the_curve_worked_by_hand() -> None:
    # By falling confidence: right, wrong, (right, wrong tied), right.
    curve = risk_coverage([0, 1, 0, 1, 0], [5, 4, 3, 3, 1])
    np.testing.assert_allclose(curve.threshold, [5, 4, 3, 1])
    np.testing.assert_allclose(curve.coverage, [0.2, 0.4, 0.8, 1.0])
    np.testing.assert_allclose(curve.selective_risk, [0, 1 / 2, 2 / 4, 2 / 5])
    np.testing.assert_allclose(curve.generalised_risk, [0, 1 / 5, 2 / 5, 2 / 5])


def test_areas_worked_by_hand() -> None:
    # Without ties: errors at ranks 2 and 4 of 4. Selective risks 0, 1/2, 1/3, 1/2.
    failures, confidence = [0, 1, 0, 1], [4, 3, 2, 1]
    assert aurc(failures, confidence) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert augrc(failures, confidence) == pytest.approx((0 + 1 / 8 + 1 / 4 + 3 / 8) / 4)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(CASES)
def test_augrc_equals_its_identity_with_the_failure_auroc(cases: list[tuple[bool, int]]) -> None:
    failures, confidence = split(cases)
    wrong = failures.mean()
    ranking = failure_auroc(failures, confidence)
    area = 0.0 if math.isnan(ranking) else (1 - ranking) * (1 - wrong) * wrong
    assert augrc(failures, confidence) == pytest.approx(area + wrong**2 / 2, abs=1e-9)


def test_aurc_is_the_mean_over_all_orders_of_ties() -> None:
    failures, confidence = np.array([1.0, 0, 1, 0, 0]), np.array([2.0, 2, 2, 1, 3])
    areas = []
    for order in permutations(range(3)):
        broken = confidence.copy()
        broken[:3] += np.array(order) / 10
        areas.append(aurc(failures, broken))
    assert aurc(failures, confidence) == pytest.approx(np.mean(areas), abs=1e-12)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(CASES, st.randoms(use_true_random=False))
def test_no_area_depends_on_the_order_of_rows(cases: list[tuple[bool, int]], random: object) -> None:
    shuffled = list(cases)
    random.shuffle(shuffled)
    for area in (aurc, augrc, e_aurc):
        assert area(*split(shuffled)) == pytest.approx(area(*split(cases)), abs=1e-12)


def test_a_perfect_order_reaches_the_oracle_and_a_random_one_the_error_rate() -> None:
    n, wrong = 20_000, 0.2
    failures = (np.arange(n) >= (1 - wrong) * n).astype(float)
    best = -np.arange(n, dtype=float)
    assert aurc(failures, best) == pytest.approx(wrong + (1 - wrong) * math.log(1 - wrong), abs=1e-4)
    assert e_aurc(failures, best) == pytest.approx(0.0, abs=1e-4)
    assert augrc(failures, best) == pytest.approx(wrong**2 / 2, abs=1e-4)
    noise = np.random.default_rng(0).random(n)
    assert aurc(failures, noise) == pytest.approx(wrong, abs=0.01)
    assert augrc(failures, noise) == pytest.approx(wrong / 2, abs=0.005)
    assert aurc(failures, np.ones(n)) == pytest.approx(wrong, abs=1e-9)


@pytest.mark.parametrize("failures", [[0, 0, 0], [1, 1, 1]])
def test_without_both_kinds_of_answers_the_failure_auroc_is_undefined(failures: list[int]) -> None:
    assert math.isnan(failure_auroc(failures, [1, 2, 3]))
    assert aurc(failures, [1, 2, 3]) == pytest.approx(failures[0])
    assert e_aurc(failures, [1, 2, 3]) == pytest.approx(0.0, abs=1e-12)
    assert augrc(failures, [1, 2, 3]) == pytest.approx(failures[0] / 2)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(CASES)
def test_auroc_agrees_with_scikit_learn(cases: list[tuple[bool, int]]) -> None:
    truth, scores = split(cases)
    if len(set(truth)) == 2:
        assert auroc(truth, scores) == pytest.approx(roc_auc_score(truth, scores))
        assert failure_auroc(truth, -scores) == pytest.approx(roc_auc_score(1 - truth, -scores))
    else:
        assert math.isnan(auroc(truth, scores))


def test_infinite_confidences_are_ordered_like_any_other() -> None:
    assert failure_auroc([0, 1, 0, 1], [np.inf, 1.0, 2.0, -np.inf]) == 1.0


@pytest.mark.parametrize(
    ("failures", "confidence"), [([], []), ([0], [0.1, 0.2]), ([0.5], [0.1]), ([0], [math.nan]), ([[0]], [[0.1]])]
)
def test_what_has_no_curve_is_refused(failures: list[float], confidence: list[float]) -> None:
    for area in (aurc, augrc, e_aurc, failure_auroc, risk_coverage):
        with pytest.raises(ValueError, match=r"."):
            area(failures, confidence)
