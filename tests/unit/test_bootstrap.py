from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.domain.selective import cluster_bootstrap, paired_difference


def test_the_interval_of_a_mean_is_the_textbooks() -> None:
    values = np.random.default_rng(0).normal(size=400)
    found = cluster_bootstrap(lambda i: float(values[i].mean()), [str(i) for i in range(400)], seed=1)
    assert found.estimate == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.01)
    assert found.high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.01)
    assert (found.draws, found.undefined) == (2000, 0)


def test_cases_of_one_patient_move_together_and_widen_the_interval() -> None:
    patient_values = np.random.default_rng(0).normal(size=100)
    values = np.repeat(patient_values, 4)

    def width(patients: list[str]) -> float:
        found = cluster_bootstrap(lambda i: float(values[i].mean()), patients, seed=2, draws=800)
        return found.high - found.low

    apart = width([str(i) for i in range(400)])
    together = width([str(i // 4) for i in range(400)])
    assert together == pytest.approx(2 * apart, rel=0.15)


def test_whole_patients_are_drawn() -> None:
    patients = ["a", "b", "a", "c", "b", "a"]

    def check(indices: np.ndarray) -> float:
        counts = np.bincount(indices, minlength=6)
        assert counts[0] == counts[2] == counts[5]
        assert counts[1] == counts[4]
        return 0.0

    cluster_bootstrap(check, patients, seed=0, draws=50)


def test_a_paired_difference_is_narrower_than_either() -> None:
    generator = np.random.default_rng(3)
    first = generator.normal(size=300)
    second = first + 0.1 + 0.05 * generator.normal(size=300)
    patients = [str(i) for i in range(300)]
    found = paired_difference(lambda i: second[i].mean(), lambda i: first[i].mean(), patients, seed=4, draws=500)
    alone = cluster_bootstrap(lambda i: first[i].mean(), patients, seed=4, draws=500)
    assert found.low > 0.08
    assert found.high < 0.12
    assert found.high - found.low < 0.2 * (alone.high - alone.low)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).random(50)
    patients = [str(i // 2) for i in range(50)]
    first, again, other = (cluster_bootstrap(lambda i: values[i].mean(), patients, seed=s, draws=99) for s in (5, 5, 6))
    assert first == again
    assert first != other


def test_draws_without_a_value_are_counted_and_left_out() -> None:
    truth = np.array([1.0, 0.0, 0.0, 0.0])

    def only_with_the_positive(indices: np.ndarray) -> float:
        return 1.0 if truth[indices].any() else math.nan

    found = cluster_bootstrap(only_with_the_positive, list("abcd"), seed=0, draws=1000)
    assert (found.low, found.high) == (1.0, 1.0)
    assert found.undefined == pytest.approx(1000 * 0.75**4, abs=60)


def test_a_statistic_that_never_has_a_value_has_no_interval() -> None:
    found = cluster_bootstrap(lambda _: math.nan, ["a", "b"], seed=0, draws=10)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.undefined == 10


def test_without_cases_there_is_no_bootstrap() -> None:
    with pytest.raises(ValueError, match="at least one case"):
        cluster_bootstrap(lambda _: 0.0, [], seed=0)
