"""The stopping rule: when the side of a threshold is settled, and when it never is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.domain.stopping import StoppingRule, capitals, side_settled

RULE = StoppingRule(budget=20, error=0.01, thresholds=(0.05, 0.9), information_limit=0.1)


def rounds(value: float, number: int, members: int = 3) -> np.ndarray:
    return np.full((members, number), value)


def test_the_first_bets_are_worked_out_by_hand() -> None:
    """At 0.25 the clip is at 1: m = 0.25, half of 0.95/0.75 is staked on below, half of 0.95/0.25 on above."""
    above, below = capitals(rounds(0.0, 1, members=2), 0.25, 20)
    assert above == 1.0  # a bet on the other side only loses
    assert below == pytest.approx((1 + 0.95 / 0.75 / 2 * 0.25) ** 2)
    above, below = capitals(rounds(1.0, 1, members=2), 0.25, 20)
    assert above == pytest.approx((1 + 0.95 / 0.25 / 2 * 0.75) ** 2)
    assert below == 1.0


def test_the_second_stake_is_the_growth_optimal_one_of_the_first_round() -> None:
    x = np.array([[0.5, 0.9], [0.7, 0.9]])
    rest = (40 * 0.5 - 1.2) / 38
    mean = (0.5 + 1.2) / 3
    spread = (0.25 + (0.5 - mean) ** 2 + (0.7 - mean) ** 2) / 3
    stake = (mean - rest) / (spread + (mean - rest) ** 2)
    first = (1 + 0.95 * 0.0) * (1 + 0.95 * 0.2)  # half of 0.95/0.5, times the gains 0 and 0.2
    above, _ = capitals(x, 0.5, 20)
    assert above == pytest.approx(first * (1 + stake * (0.9 - rest)) ** 2)


@pytest.mark.parametrize(("value", "side"), [(0.001, True), (0.5, True), (0.05, False)])
def test_what_lies_far_from_both_thresholds_settles_and_what_lies_on_one_does_not(value: float, side: bool) -> None:
    found = [RULE.is_settled(rounds(value, r), 0.0) for r in range(2, 20)]
    assert any(found) is side


def test_passes_that_can_no_longer_change_the_side_settle_it_whatever_the_error() -> None:
    """Ten of twenty rounds at 1 put the mean at 0.5 at least: above 0.4 for certain; 0.6 is still open."""
    assert capitals(rounds(1.0, 10), 0.4, 20)[0] == np.inf
    assert side_settled(rounds(1.0, 10), 0.4, 20, 1e-300)
    assert not side_settled(rounds(1.0, 2), 0.6, 20, 1e-300)


def test_one_high_pass_keeps_open_what_the_clipped_passes_would_have_settled() -> None:
    """Six in a hundred passes at 1 would put the mean above 0.05, and after one of them five more are still possible."""
    x = rounds(0.0, 7, members=5)
    assert side_settled(x, 0.05, 20, 0.01)
    x[0, 0] = 1.0
    assert capitals(x, 0.05, 20)[1] > 100.0
    assert not side_settled(x, 0.05, 20, 0.01)
    assert not side_settled(1.0 - x, 0.95, 20, 0.01)


def test_a_high_pass_is_outweighed_by_enough_low_ones() -> None:
    x = rounds(0.0, 19, members=5)
    x[0, 0] = 1.0
    assert side_settled(x, 0.05, 20, 0.01)


def test_a_case_whose_mean_has_changed_sides_since_it_was_settled_goes_on() -> None:
    x = np.concatenate([rounds(1.0, 2), rounds(0.0, 7)], axis=1)
    assert side_settled(x[:, :2], 0.25, 20, 0.05)
    assert capitals(x, 0.25, 20)[0] > 20.0
    assert x.mean() < 0.25
    assert not side_settled(x, 0.25, 20, 0.05)


def test_the_rule_is_the_same_for_a_threshold_and_its_mirror() -> None:
    x = np.random.default_rng(0).beta(2, 5, (3, 6))
    low, high = capitals(x, 0.2, 20), capitals(1 - x, 0.8, 20)
    assert low == pytest.approx(high)


def test_one_round_never_settles_a_case() -> None:
    assert not RULE.is_settled(rounds(0.0, 1), 0.0)


@pytest.mark.parametrize("information", [0.067, 0.1, 0.149, float("nan"), float("inf")])
def test_a_case_whose_information_is_near_its_limit_or_undefined_goes_on(information: float) -> None:
    assert RULE.is_settled(rounds(0.0, 19), 0.05)
    assert not RULE.is_settled(rounds(0.0, 19), information)


def test_without_thresholds_or_with_undefined_probabilities_nothing_is_settled() -> None:
    assert not replace(RULE, thresholds=()).is_settled(rounds(0.0, 19), 0.0)
    assert not RULE.is_settled(rounds(float("nan"), 19), 0.0)
    assert not RULE.is_settled(np.zeros(5), 0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"budget": 1},
        {"error": 0.0},
        {"error": 1.0},
        {"thresholds": (0.0,)},
        {"thresholds": (float("nan"),)},
        {"information_limit": -1.0},
        {"information_limit": float("nan")},
    ],
)
def test_a_rule_out_of_range_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a stopping rule needs"):
        replace(RULE, **changes)  # type: ignore[arg-type]


def test_a_rule_goes_through_json_and_back() -> None:
    assert StoppingRule.from_dict(json.loads(json.dumps(RULE.to_dict()))) == RULE
