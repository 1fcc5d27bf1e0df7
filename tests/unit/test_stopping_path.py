"""The rounds taken all at once are held against the rule asked after every single round."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.domain.stopping import FEWEST_ROUNDS, StoppingRule, capitals, side_settled
from pipeline.domain.stopping_path import CLIP, capital_paths, information_path, settled_rounds
from pipeline.domain.uncertainty import PosteriorSamples, decompose

BUDGET = 20
SCALES = ((0.3, 6.0), (2.0, 2.0), (0.05, 0.05), (8.0, 0.5), (0.2, 30.0))


def drawn(seed: int, members: int = 4, rounds: int = BUDGET) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.beta(*SCALES[seed % len(SCALES)], size=(members, rounds))


@pytest.mark.parametrize("threshold", [0.03, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(30))
def test_all_rounds_at_once_settle_where_each_round_by_itself_does(seed: int, threshold: float) -> None:
    finding = drawn(seed)
    expected = [side_settled(finding[:, :r], threshold, BUDGET, 0.05) for r in range(1, BUDGET + 1)]
    assert settled_rounds(finding, threshold, BUDGET, 0.05).tolist() == expected


@pytest.mark.parametrize("clip", [CLIP, np.inf])
@pytest.mark.parametrize("seed", range(20))
def test_the_capital_after_every_round_is_the_one_by_one_capital(seed: int, clip: float) -> None:
    finding = drawn(seed)
    above, below = capital_paths(finding, 0.1, BUDGET, clip)
    one_by_one = [capitals(finding[:, :r], 0.1, BUDGET, clip=clip) for r in range(1, BUDGET + 1)]
    np.testing.assert_allclose(above, [a for a, _ in one_by_one], rtol=1e-9)
    np.testing.assert_allclose(below, [b for _, b in one_by_one], rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_side_that_the_passes_left_cannot_change_is_settled(value: float) -> None:
    finding = np.full((2, BUDGET), value)
    expected = [side_settled(finding[:, :r], 0.4, BUDGET, 1e-300) for r in range(1, BUDGET + 1)]
    assert any(expected)
    assert not all(expected)
    assert settled_rounds(finding, 0.4, BUDGET, 1e-300).tolist() == expected


@pytest.mark.parametrize("seed", range(5))
def test_the_information_after_every_round_is_that_of_its_rounds(seed: int) -> None:
    p = np.random.default_rng(seed).dirichlet([0.6, 1.0, 2.0], size=(3, 12))
    path = information_path(np.log(p))
    expected = [decompose(PosteriorSamples(np.log(p[:, :r, None]))).mutual_information[0] for r in range(1, 13)]
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-12)


def test_the_rule_names_the_first_round_at_which_it_is_settled() -> None:
    rule = StoppingRule(budget=BUDGET, error=0.05, thresholds=(0.05, 0.4), information_limit=0.02)
    for seed in range(40):
        finding = drawn(seed)
        information = np.random.default_rng(seed).uniform(0.0, 0.05, BUDGET)
        expected = next(
            (r for r in range(FEWEST_ROUNDS, BUDGET + 1) if rule.is_settled(finding[:, :r], float(information[r - 1]))),
            None,
        )
        assert rule.first_settled(finding, information) == expected


def test_undefined_numbers_and_no_threshold_settle_nothing() -> None:
    rule = StoppingRule(budget=BUDGET, error=0.05, thresholds=(0.3,), information_limit=0.02)
    calm = np.zeros(BUDGET)
    assert rule.first_settled(np.zeros((2, BUDGET)), calm) is not None
    assert rule.first_settled(np.full((2, BUDGET), np.nan), calm) is None
    assert rule.first_settled(np.zeros((2, BUDGET)), np.full(BUDGET, np.nan)) is None
    assert (
        StoppingRule(budget=BUDGET, error=0.05, thresholds=(), information_limit=0.02).first_settled(
            np.zeros((2, BUDGET)), calm
        )
        is None
    )
