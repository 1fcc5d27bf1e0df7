from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.domain.certificate import gated_scores, one_case_per_patient
from pipeline.domain.guards import is_certain, is_familiar

LIMIT, LEVEL = 0.05, 0.02


def gated(mi: float, p: float, side: str, score: float = 0.3) -> float:
    return float(gated_scores([score], [mi], [p], mutual_information_limit=LIMIT, novelty_level=LEVEL, side=side)[0])


@pytest.mark.parametrize(("side", "far"), [("routine", math.inf), ("priority", -math.inf)])
@pytest.mark.parametrize(
    ("mi", "p", "score"),
    [
        (0.0500001, 0.5, 0.3),
        (0.01, 0.02, 0.3),
        (0.01, 0.001, 0.3),
        (math.nan, 0.5, 0.3),
        (0.01, math.nan, 0.3),
        (-math.inf, 0.5, 0.3),
        (0.01, 0.5, math.nan),
    ],
)
def test_a_case_the_guards_would_stop_goes_to_the_far_end(
    mi: float, p: float, score: float, side: str, far: float
) -> None:
    assert gated(mi, p, side, score) == far


@pytest.mark.parametrize("side", ["routine", "priority"])
def test_a_case_on_the_information_limit_keeps_its_score(side: str) -> None:
    assert gated(0.05, 0.0201, side) == 0.3


@pytest.mark.parametrize("mi", [0.0, 0.049, 0.05, 0.051])
@pytest.mark.parametrize("p", [0.019, 0.02, 0.021, 1.0])
def test_gates_are_the_guards_own_questions(mi: float, p: float) -> None:
    assert (gated(mi, p, "routine") == 0.3) == (is_certain(mi, LIMIT) and is_familiar(p, LEVEL))


def test_the_scores_given_are_left_alone() -> None:
    scores = np.array([0.1, 0.2])
    gated_scores(scores, [1.0, 1.0], [0.5, 0.5], mutual_information_limit=LIMIT, novelty_level=LEVEL, side="routine")
    assert scores.tolist() == [0.1, 0.2]


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        gated_scores([0.1], [0.1], [0.5, 0.5], mutual_information_limit=LIMIT, novelty_level=LEVEL, side="routine")


def test_every_patient_keeps_exactly_one_case() -> None:
    patients = ["a", "b", "a", "c", "b", "a"]
    chosen = one_case_per_patient(patients, seed=0)
    assert [patients[i] for i in sorted(chosen, key=lambda i: patients[i])] == ["a", "b", "c"]
    assert (np.diff(chosen) > 0).all()


def test_the_case_kept_is_drawn_by_the_seed_and_each_is_as_likely() -> None:
    patients = ["a"] * 4
    assert one_case_per_patient(patients, 3).tolist() == one_case_per_patient(patients, 3).tolist()
    counts = np.bincount([one_case_per_patient(patients, seed)[0] for seed in range(400)], minlength=4)
    assert counts.min() > 60


def test_no_patients_keep_no_case() -> None:
    assert one_case_per_patient([], 0).size == 0
