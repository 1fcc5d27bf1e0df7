from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

from pipeline.domain.selective import referral_curve


def drawn(n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    positive = generator.random(n) < 0.3
    scores = 1 / (1 + np.exp(-(generator.normal(size=n) + 2 * positive - 1)))
    return scores, positive, np.abs(scores - 0.5)


def test_every_point_agrees_with_scikit_learn_on_the_kept_cases() -> None:
    scores, positive, confidence = drawn()
    for point in referral_curve(scores, positive, confidence):
        kept = np.argsort(-confidence)[: point.kept]
        called = scores[kept] >= 0.5
        assert point.kept == 400 - round(point.deferred * 400)
        assert point.auc == pytest.approx(roc_auc_score(positive[kept], scores[kept]))
        assert point.sensitivity == pytest.approx(recall_score(positive[kept], called))
        assert point.specificity == pytest.approx(recall_score(~positive[kept], ~called))
        assert point.accuracy == pytest.approx(accuracy_score(positive[kept], called))
        assert point.deferred_positives == positive.sum() - positive[kept].sum()
        assert point.deferred_positives + point.deferred_negatives + point.kept == 400


def test_shares_run_from_none_to_ninety_percent() -> None:
    shares = [point.deferred for point in referral_curve(*drawn())]
    assert shares == pytest.approx(np.arange(19) * 0.05)


def test_deferring_the_least_confident_helps_and_deferring_at_random_does_not() -> None:
    scores, positive, confidence = drawn(4000)
    whole, half = referral_curve(scores, positive, confidence, shares=(0.0, 0.5))
    assert half.accuracy > whole.accuracy + 0.1
    assert half.auc > whole.auc + 0.05
    _, chance = referral_curve(scores, positive, np.random.default_rng(1).random(4000), shares=(0.0, 0.5))
    assert chance.accuracy == pytest.approx(whole.accuracy, abs=0.03)


def test_what_was_deferred_shows_a_model_that_hands_over_every_finding() -> None:
    scores, positive, _ = drawn()
    share = float(positive.mean())
    (point,) = referral_curve(scores, positive, np.where(positive, 0.0, 1.0), shares=(share,))
    assert (point.deferred_positives, point.deferred_negatives) == (positive.sum(), 0)
    assert math.isnan(point.auc)
    assert math.isnan(point.sensitivity)


def test_accuracy_can_be_of_the_class_answered() -> None:
    scores, positive, confidence = drawn()
    correct = np.zeros(400, dtype=bool)
    correct[np.argsort(-confidence)[:100]] = True
    (point,) = referral_curve(scores, positive, confidence, correct=correct, shares=(0.5,))
    assert point.accuracy == 0.5


def test_deferring_all_leaves_nothing_to_measure() -> None:
    (point,) = referral_curve(*drawn(), shares=(1.0,))
    assert point.kept == 0
    assert all(math.isnan(x) for x in (point.auc, point.sensitivity, point.specificity, point.accuracy))


def test_ties_are_deferred_in_a_seeded_order_that_rows_do_not_decide() -> None:
    scores, positive = np.array([0.9] * 50 + [0.1] * 50), np.array([True] * 50 + [False] * 50)
    (point,) = referral_curve(scores, positive, np.ones(100), shares=(0.5,), seed=1)
    assert 10 < point.deferred_positives < 40
    assert referral_curve(scores, positive, np.ones(100), shares=(0.5,), seed=1) == (point,)


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="as many"):
        referral_curve([0.1, 0.2], [True, False], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="at least one"):
        referral_curve([], [], [])
