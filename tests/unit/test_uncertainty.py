from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import entropy

from pipeline.domain.case import Reason
from pipeline.domain.uncertainty import PosteriorSamples, aggregate_parts, decompose
from pipeline.errors import DeferCase


def samples(shape: tuple[int, int, int, int] = (5, 20, 40, 3), scale: float = 1.0, seed: int = 0) -> PosteriorSamples:
    return PosteriorSamples(log_softmax(np.random.default_rng(seed).normal(size=shape) * scale, axis=-1))


def exactly(*probabilities: list[list[float]]) -> PosteriorSamples:
    """One case from probabilities per member and pass."""
    return PosteriorSamples(np.log(np.array(probabilities, dtype=np.float64))[:, :, None])


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 10.0, 1e4])
def test_predictive_entropy_is_the_sum_of_its_parts(scale: float) -> None:
    found = decompose(samples(scale=scale))
    total = found.expected_entropy + found.mi_dropout + found.mi_member
    np.testing.assert_allclose(found.predictive_entropy, total, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 10.0, 1e4])
def test_information_is_never_negative_and_always_finite(scale: float) -> None:
    found = decompose(samples(scale=scale))
    for part in (found.mi_dropout, found.mi_member, found.mutual_information, found.epkl):
        assert np.isfinite(part).all()
        assert (part >= 0).all()


def test_tiny_information_keeps_its_digits() -> None:
    # Two members at 0.5 -+ e: I = log 2 - H(0.5 + e) = 2 e^2 + 4 e^4 / 3 + ...
    e = 1e-7
    found = decompose(exactly([[0.5 - e, 0.5 + e]], [[0.5 + e, 0.5 - e]]))
    assert found.mi_member[0] == pytest.approx(2 * e**2, rel=1e-8)


def test_a_case_worked_by_hand() -> None:
    # One member says 0.9/0.1 and 0.7/0.3, the other twice 0.2/0.8.
    found = decompose(exactly([[0.9, 0.1], [0.7, 0.3]], [[0.2, 0.8], [0.2, 0.8]]))
    first, second = [0.8, 0.2], [0.2, 0.8]
    np.testing.assert_allclose(found.mean[0], [0.5, 0.5])
    assert found.predictive_entropy[0] == pytest.approx(math.log(2))
    expected = (entropy([0.9, 0.1]) + entropy([0.7, 0.3]) + 2 * entropy(second)) / 4
    assert found.expected_entropy[0] == pytest.approx(expected)
    within = (entropy(first) - (entropy([0.9, 0.1]) + entropy([0.7, 0.3])) / 2) / 2
    assert found.mi_dropout[0] == pytest.approx(within)
    assert found.mi_member[0] == pytest.approx(math.log(2) - (entropy(first) + entropy(second)) / 2)
    assert found.mi_dropout_corrected[0] == pytest.approx(2 * within)
    assert found.mi_member_corrected[0] == pytest.approx(found.mi_member[0] - 2 * within / 4)
    assert found.mutual_information[0] == pytest.approx(found.mi_dropout[0] + found.mi_member[0] + 2 * within / 4)
    assert found.variation_ratio[0] == 0.5
    assert found.variance_dropout[0, 0] == pytest.approx(0.02 / 2)
    assert found.variance_member[0, 0] == pytest.approx(0.09 - 0.01 / 2 / 2)
    np.testing.assert_allclose(np.exp(found.log_member_mean[:, 0]), [first, second])


def test_corrected_parts_add_up_to_the_corrected_information() -> None:
    found = decompose(samples())
    np.testing.assert_allclose(
        found.mi_dropout_corrected + found.mi_member_corrected, found.mutual_information, rtol=1e-12, atol=1e-15
    )


def test_variance_splits_exactly() -> None:
    found = decompose(samples())
    whole = found.mean * (1 - found.mean)
    np.testing.assert_allclose(found.variance_aleatoric + found.variance_epistemic, whole, rtol=0, atol=1e-14)


def test_pairwise_divergence_equals_the_double_loop() -> None:
    given = samples((2, 3, 4, 3))
    p = np.exp(given.log_probabilities).reshape(6, 4, 3)
    pairs = np.mean([entropy(p[i], p[j], axis=-1) for i in range(6) for j in range(6)], axis=0)
    np.testing.assert_allclose(decompose(given).epkl, pairs, rtol=1e-10)


def test_equal_members_and_passes_carry_no_information() -> None:
    found = decompose(PosteriorSamples(np.broadcast_to(np.log([0.7, 0.2, 0.1]), (3, 4, 2, 3))))
    for part in (found.mi_dropout, found.mi_member, found.mutual_information, found.variation_ratio):
        np.testing.assert_allclose(part, 0.0, atol=1e-15)


def test_certain_answers_have_no_entropy() -> None:
    sure = decompose(PosteriorSamples(log_softmax(np.array([[[[1e4, -1e4]]]]), axis=-1)))
    assert sure.predictive_entropy[0] == 0.0
    assert sure.mutual_information[0] == 0.0


def test_one_pass_makes_the_dropout_part_unavailable() -> None:
    found = decompose(samples((5, 1, 3, 2)))
    assert not found.dropout_available
    assert found.member_available
    np.testing.assert_array_equal(found.mi_dropout_corrected, 0.0)
    np.testing.assert_allclose(found.mutual_information, found.mi_member, atol=1e-15)


def test_one_member_makes_the_member_part_unavailable() -> None:
    found = decompose(samples((1, 5, 3, 2)))
    assert found.dropout_available
    assert not found.member_available
    np.testing.assert_allclose(found.mi_member, 0.0, atol=1e-15)
    np.testing.assert_allclose(found.mutual_information, found.mi_dropout_corrected, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (1, 2), (2, 1)])
def test_a_number_that_is_not_finite_defers_its_case(bad: float, place: tuple[int, int]) -> None:
    values = np.array(samples((3, 3, 4, 2)).log_probabilities)
    values[place[0], place[1], 2, 1] = bad
    broken = PosteriorSamples(values)
    assert broken.finite.tolist() == [True, True, False, True]
    with pytest.raises(DeferCase) as caught:
        decompose(broken)
    assert caught.value.reason == Reason.UNCERTAINTY_INVALID
    with pytest.raises(DeferCase):
        aggregate_parts(broken)
    assert np.isfinite(decompose(broken.select(broken.finite)).mutual_information).all()


@pytest.mark.parametrize("shape", [(2, 2, 2), (0, 2, 2, 2), (2, 0, 2, 2), (2, 2, 0, 2), (2, 2, 2, 0)])
def test_samples_without_an_axis_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="axes"):
        PosteriorSamples(np.zeros(shape))


def test_samples_that_are_not_log_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to one"):
        PosteriorSamples(np.full((2, 2, 2, 2), 0.5))
    with pytest.raises(ValueError, match="floating point"):
        PosteriorSamples(np.zeros((2, 2, 2, 1), dtype=np.int64))


def test_float32_samples_are_taken_and_held_as_float64() -> None:
    given = samples()
    taken = PosteriorSamples(given.log_probabilities.astype(np.float32))
    assert taken.log_probabilities.dtype == np.float64
    np.testing.assert_allclose(decompose(taken).mean, decompose(given).mean, atol=1e-6)
    np.testing.assert_allclose(decompose(taken).mean.sum(axis=1), 1.0, rtol=0, atol=1e-15)


def test_samples_cannot_be_changed_after_they_are_taken() -> None:
    given = np.log(np.full((1, 1, 1, 2), 0.5))
    taken = PosteriorSamples(given)
    given[:] = 0.0
    assert decompose(taken).mean[0, 0] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="read-only"):
        taken.log_probabilities[0, 0, 0, 0] = 1.0


def test_the_digest_is_of_one_case_and_of_every_bit() -> None:
    given = samples((2, 3, 4, 2))
    assert given.digest(1) == given.select(np.array([1])).digest(0)
    assert len({given.digest(n) for n in range(4)}) == 4
    values = np.array(given.log_probabilities)
    values[1, 2, 1, 0] = np.nextafter(values[1, 2, 1, 0], 0)
    assert PosteriorSamples(values).digest(1) != given.digest(1)
    assert PosteriorSamples(values).digest(0) == given.digest(0)
    assert given.digest(0) != PosteriorSamples(given.log_probabilities.swapaxes(0, 1)).digest(0)


def test_sizes_are_named() -> None:
    given = samples((2, 3, 4, 5))
    assert (given.members, given.passes, given.cases, given.classes) == (2, 3, 4, 5)


def test_parts_are_averaged_as_probabilities_within_each_member_and_pass() -> None:
    given = samples((2, 3, 7, 4))
    whole = aggregate_parts(given)
    assert (whole.members, whole.passes, whole.cases, whole.classes) == (2, 3, 1, 4)
    np.testing.assert_allclose(
        np.exp(whole.log_probabilities[:, :, 0]), np.exp(given.log_probabilities).mean(axis=2), rtol=1e-12
    )


def test_a_case_of_one_part_is_that_part() -> None:
    given = samples((2, 3, 1, 4))
    np.testing.assert_allclose(aggregate_parts(given).log_probabilities, given.log_probabilities, atol=1e-14)


def test_the_order_of_members_passes_and_cases_does_not_matter() -> None:
    given = samples((3, 4, 6, 3))
    shuffled = PosteriorSamples(given.log_probabilities[[2, 0, 1]][:, [3, 1, 0, 2]][:, :, ::-1])
    first, second = decompose(given), decompose(shuffled)
    np.testing.assert_allclose(second.mutual_information[::-1], first.mutual_information, rtol=1e-10)
    np.testing.assert_allclose(second.mean[::-1], first.mean, rtol=1e-12)


def two_series() -> PosteriorSamples:
    """One member, one pass, three parts of two classes: finding probabilities 0.1, 0.5 and 0.9."""
    finding = np.array([0.1, 0.5, 0.9])
    return PosteriorSamples(np.log(np.stack([1 - finding, finding], axis=-1))[None, None])


@pytest.mark.parametrize(
    ("series", "slices", "study", "expected"),
    [
        (None, "mean", "mean", 0.5),
        ([2, 1], "mean", "mean", (0.3 + 0.9) / 2),
        ([1, 2], "mean", "mean", (0.1 + 0.7) / 2),
        ([2, 1], "highest", "mean", (0.5 + 0.9) / 2),
        ([2, 1], "mean", "highest", 0.9),
        ([1, 2], "mean", "highest", 0.7),
        (None, "highest", "mean", 0.9),
    ],
)
def test_slices_become_series_and_series_the_study_as_declared(
    series: list[int] | None, slices: Any, study: Any, expected: float
) -> None:
    found = aggregate_parts(two_series(), series, how_slices=slices, how_series=study, finding_indices=(1,))
    assert np.exp(found.log_probabilities[0, 0, 0, 1]) == pytest.approx(expected)


@pytest.mark.parametrize("series", [[2], [2, 2], [3, 0], [], [4, -1]])
def test_series_that_do_not_name_every_part_are_refused(series: list[int]) -> None:
    with pytest.raises(ValueError, match="do not make up series"):
        aggregate_parts(two_series(), series)


def test_the_highest_part_needs_to_know_the_finding() -> None:
    with pytest.raises(ValueError, match="places of the findings"):
        aggregate_parts(two_series(), how_slices="highest")


def test_a_failed_part_makes_the_case_incomplete_under_every_aggregation() -> None:
    broken = np.array(two_series().log_probabilities)
    broken[0, 0, 0] = np.nan
    with pytest.raises(DeferCase):
        aggregate_parts(PosteriorSamples(broken), [2, 1], how_slices="highest", finding_indices=(1,))


def test_the_member_part_of_a_posterior_is_rescaled_and_undefined_for_one_member() -> None:
    p = np.array([[[[0.2, 0.8]], [[0.3, 0.7]]], [[[0.6, 0.4]], [[0.5, 0.5]]]])
    found = decompose(PosteriorSamples(np.log(p)))
    assert found.mi_member_unbiased == pytest.approx(2 * found.mi_member_corrected)
    assert np.isnan(decompose(PosteriorSamples(np.log(p[:1]))).mi_member_unbiased).all()
