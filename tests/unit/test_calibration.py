from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.metrics import brier_score_loss, log_loss

from pipeline.domain.calibration import (
    apply_shared,
    apply_temperature,
    brier,
    count_floored,
    finding_probability,
    fit_shared_temperature,
    fit_temperature,
    nll,
    top_label,
    undo_prior,
)
from pipeline.domain.uncertainty import PosteriorSamples
from pipeline.errors import HaltPipeline


def labelled(n: int, classes: int, temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Log probabilities whose right temperature is `temperature`, and labels drawn accordingly."""
    generator = np.random.default_rng(seed)
    log_p = log_softmax(2 * generator.normal(size=(n, classes)), axis=1)
    right = np.exp(log_softmax(log_p / temperature, axis=1))
    return log_p, (right.cumsum(axis=1) < generator.random((n, 1))).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.3, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_fitted_temperature_is_the_one_the_labels_were_drawn_with(temperature: float, classes: int) -> None:
    assert fit_temperature(*labelled(20_000, classes, temperature, 0)) == pytest.approx(temperature, rel=0.08)


def test_no_other_temperature_has_a_lower_nll() -> None:
    log_p, labels = labelled(300, 3, 0.6, 1)
    best = fit_temperature(log_p, labels)
    found = nll(apply_temperature(log_p, best), labels)
    assert all(found <= nll(apply_temperature(log_p, t), labels) + 1e-12 for t in np.geomspace(0.1, 10, 200))


def test_an_ensemble_whose_members_disagree_by_chance_gets_a_temperature_below_one() -> None:
    # Averaging members that disagree by chance loses confidence that a temperature below one gives back.
    generator = np.random.default_rng(2)
    truth = generator.normal(size=(4000, 2)) * 2
    labels = (np.exp(log_softmax(truth, axis=1)).cumsum(axis=1) < generator.random((4000, 1))).sum(axis=1)
    members = np.exp(log_softmax(truth + generator.normal(size=(8, 4000, 2)), axis=-1))
    pooled = np.log(members.mean(axis=0))
    temperature = fit_temperature(pooled, labels)
    assert temperature < 0.95
    assert nll(apply_temperature(pooled, temperature), labels) < nll(pooled, labels)


def test_a_perfect_tune_split_gives_a_finite_temperature_by_smoothing() -> None:
    log_p = np.log([[0.9, 0.1]] * 20 + [[0.1, 0.9]] * 20)
    found = fit_temperature(log_p, [0] * 20 + [1] * 20)
    assert math.exp(-2.5) < found < 1.0
    # The smoothed target is 41 / 42, so that odds of 9 must become odds of 41.
    assert found == pytest.approx(math.log(9) / math.log(41), rel=1e-4)


def test_a_tune_split_that_is_always_wrong_is_refused() -> None:
    with pytest.raises(HaltPipeline, match="no temperature"):
        fit_temperature(np.log([[0.9, 0.1]] * 50), [1] * 50)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        apply_temperature(np.log([[0.5, 0.5]]), temperature)


def test_a_temperature_of_one_changes_nothing_and_rows_sum_to_one() -> None:
    log_p, _ = labelled(50, 3, 1.0, 3)
    np.testing.assert_allclose(apply_temperature(log_p, 1.0), log_p, atol=1e-12)
    np.testing.assert_allclose(np.exp(apply_temperature(log_p, 0.2)).sum(axis=1), 1.0, atol=1e-12)


def test_a_temperature_keeps_the_order_of_two_class_scores() -> None:
    log_p, _ = labelled(200, 2, 1.0, 4)
    assert (np.argsort(apply_temperature(log_p, 0.4)[:, 1]) == np.argsort(log_p[:, 1])).all()


def test_a_temperature_works_on_any_leading_axes() -> None:
    log_p = labelled(12, 3, 1.0, 5)[0].reshape(2, 2, 3, 3)
    np.testing.assert_allclose(apply_temperature(log_p, 0.7)[1, 0], apply_temperature(log_p[1, 0], 0.7))


def test_nll_and_brier_agree_with_scikit_learn() -> None:
    log_p, labels = labelled(500, 4, 0.8, 6)
    assert nll(log_p, labels) == pytest.approx(log_loss(labels, np.exp(log_p)))
    binary, truth = labelled(500, 2, 0.8, 7)
    assert brier(np.exp(binary), truth) == pytest.approx(2 * brier_score_loss(truth, np.exp(binary)[:, 1]))


def test_brier_runs_from_zero_to_two() -> None:
    assert brier([[1.0, 0.0], [0.0, 1.0]], [0, 1]) == 0.0
    assert brier([[1.0, 0.0]], [1]) == 2.0
    assert brier([[0.5, 0.25, 0.25]], [0]) == pytest.approx(0.25 + 2 * 0.0625)


def test_floored_cases_are_counted() -> None:
    with np.errstate(divide="ignore"):
        log_p = np.log([[0.0, 1.0], [1e-13, 1 - 1e-13], [1e-11, 1 - 1e-11], [0.3, 0.7]])
    assert count_floored(log_p, [0, 0, 0, 0]) == 2
    assert count_floored(log_p, [1, 1, 1, 1]) == 0
    assert nll(log_p[:1], [0]) == pytest.approx(-math.log(1e-12))


def test_the_probability_of_any_finding_is_the_sum_and_never_above_one() -> None:
    log_p = np.log([[0.2, 0.5, 0.3], [1e-9, 0.6, 0.4]])
    np.testing.assert_allclose(finding_probability(log_p, (1, 2)), [0.8, 1.0])
    assert (
        finding_probability(log_softmax(np.random.default_rng(0).normal(size=(999, 7)), axis=1), range(7)) <= 1
    ).all()


def test_the_top_label_is_the_most_probable_class() -> None:
    confidence, correct = top_label([[0.2, 0.8], [0.6, 0.4]], [1, 1])
    assert confidence.tolist() == [0.8, 0.6]
    assert correct.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([[0.5, 0.5]], [0, 1]),
        ([0.5, 0.5], [0, 1]),
        (np.zeros((0, 2)), np.zeros(0, dtype=int)),
        ([[0.5, 0.5]], [2]),
        ([[0.5, 0.5]], [-1]),
        ([[0.5, 0.5]], [0.0]),
        ([[math.nan, 0.5]], [0]),
    ],
)
def test_values_and_labels_that_do_not_belong_together_are_refused(values: object, labels: object) -> None:
    for measure in (nll, brier, fit_temperature, top_label):
        with pytest.raises(ValueError, match=r"."):
            measure(values, labels)


def test_a_shared_temperature_is_the_one_that_minimises_the_nll_of_the_pool() -> None:
    generator = np.random.default_rng(3)
    logits = generator.normal(0, 2, (3, 4, 100, 3)) * 0.7 + generator.normal(0, 2, (1, 1, 100, 3))
    labels = np.array([generator.choice(3, p=row) for row in softmax(1.5 * logits.mean(axis=(0, 1)), axis=1)])
    log_p = log_softmax(logits, axis=-1)
    found = fit_shared_temperature(log_p, labels)

    def pool_nll(t: float) -> float:
        pooled = softmax(logits / t, axis=-1).mean(axis=(0, 1))
        return log_loss(labels, pooled, labels=[0, 1, 2])

    best = min(np.geomspace(0.2, 5, 800), key=pool_nll)
    assert found == pytest.approx(best, rel=5e-3)
    pooled = apply_shared(PosteriorSamples(log_p), found)
    assert np.exp(pooled.log_probabilities).mean(axis=(0, 1)) == pytest.approx(
        softmax(logits / found, axis=-1).mean(axis=(0, 1))
    )


def test_a_shared_temperature_of_cases_all_called_wrongly_is_refused() -> None:
    log_p = np.log(np.array([[[[0.999, 0.001]] * 40]]))
    with pytest.raises(HaltPipeline, match="choose pooled calibration"):
        fit_shared_temperature(log_p, [1] * 40)


def test_the_class_prior_is_undone_by_bayes_rule() -> None:
    """Learnt half and half, the finding being one in ten: 0.5 becomes 0.1, and 0.9 becomes 0.5."""
    log_p = np.log(np.array([[0.5, 0.5], [0.1, 0.9]]))
    found = np.exp(undo_prior(log_p, [0.5, 0.5], [0.9, 0.1]))
    assert found[:, 1] == pytest.approx([0.1, 0.5])


@pytest.mark.parametrize(("sampled", "natural"), [([0.5, 0.5], [1.0, 0.0]), ([0.5, 0.6], [0.5, 0.5]), ([1.0], [1.0])])
def test_class_shares_that_are_none_are_refused(sampled: list[float], natural: list[float]) -> None:
    with pytest.raises(ValueError, match=r"class(es)?"):
        undo_prior(np.log([[0.5, 0.5]]), sampled, natural)
