"""The watches: bets by hand, state that survives, alarms that stay, and another library's jumper."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from crepes.martingales import EpsilonBettingFunction, SimpleJumper

from pipeline.domain.martingales import MULTIPLES, MissWatch, ShiftWatch, any_site, effective_size, jumped
from pipeline.errors import HaltPipeline


def watched(misses: list[bool], rate: float = 0.01) -> MissWatch:
    found = MissWatch(rate=rate, delta=0.05)
    for miss in misses:
        found = found.after(miss)
    return found


def test_the_capital_is_the_mean_of_the_likelihood_ratios() -> None:
    found = watched([False, True, False])
    expected = np.mean([(m * 0.01) * (1 - m * 0.01) ** 2 / (0.01 * 0.99**2) for m in MULTIPLES])
    assert found.e_value == pytest.approx(expected)
    assert (found.reads, found.misses) == (3, 1)


def test_misses_in_a_row_raise_an_alarm_that_stays() -> None:
    found = watched([True] * 3)
    assert found.alarmed_at == 2  # (1.5^2 + 2^2 + 3^2 + 5^2 + 10^2 + 20^2) / 6 = 90 at two
    calm = found
    for _ in range(3000):
        calm = calm.after(miss=False)
    assert calm.e_value < 20 < calm.highest
    assert calm.alarmed_at == 2


def test_a_watch_that_was_stored_goes_on_the_same_path() -> None:
    first = watched([False] * 5 + [True])
    again = MissWatch.from_dict(json.loads(json.dumps(first.to_dict())))
    assert again == first
    assert again.after(miss=True) == first.after(miss=True)
    shift = ShiftWatch.start([0.1, 0.5, 0.5], delta=0.01, seed=3).after(0.5)
    stored = ShiftWatch.from_dict(json.loads(json.dumps(shift.to_dict())))
    assert stored.after(0.4) == shift.after(0.4)


def test_some_site_is_found_by_the_mean_and_named_only_when_it_alone_is_enough() -> None:
    calm, wild = watched([False] * 20), watched([True] * 2)
    some, named = any_site({"a": calm, "b": wild})
    assert (some, named) == (True, ("b",))
    assert any_site({"a": calm, "b": watched([True])}) == (False, ())
    calmed = watched([True] * 3 + [False] * 3000)
    assert any_site({"a": calm, "b": calmed}) == (True, ("b",))  # named once, some site stays named
    with pytest.raises(ValueError, match="at least one site"):
        any_site({})


def test_the_jumper_is_that_of_crepes() -> None:
    p_values = np.random.default_rng(0).random(200) ** 2
    ours, path = (1 / 3,) * 3, []
    for p in p_values:
        ours = jumped(ours, float(p))
        path.append(sum(ours))
    theirs = SimpleJumper(J=0.01, bf=EpsilonBettingFunction(E=[-1, 0, 1]))
    np.testing.assert_allclose(path, theirs.apply(p_values), rtol=1e-9)


def test_every_case_joins_those_it_is_ranked_among() -> None:
    found = ShiftWatch.start([1.0, 2.0, 3.0], delta=0.01, seed=0).after(2.5)
    assert found.seen == (1.0, 2.0, 2.5, 3.0)
    lot = np.random.default_rng([0, 0]).random()
    p = (1 + lot) / 4
    assert found.capital == pytest.approx(jumped((1 / 3,) * 3, p))


def test_a_stream_far_above_the_reference_raises_an_alarm() -> None:
    found = ShiftWatch.start(np.random.default_rng(0).normal(size=200), delta=0.01, seed=1)
    for score in np.random.default_rng(1).normal(1.0, 1.0, 150):
        found = found.after(float(score))
    assert found.alarmed_at is not None
    assert found.highest >= 100


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_that_cannot_be_ranked_are_refused(score: float) -> None:
    with pytest.raises(ValueError, match="cannot be ranked"):
        ShiftWatch.start([1.0], delta=0.01, seed=0).after(score)
    with pytest.raises(ValueError, match="finite reference"):
        ShiftWatch.start([1.0, score], delta=0.01, seed=0)


def test_limits_that_are_none_are_refused() -> None:
    for rate in (0.0, 0.995, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            MissWatch(rate=rate, delta=0.05)
    with pytest.raises(ValueError, match="between 0 and 1"):
        ShiftWatch.start([1.0], delta=1.0, seed=0)


def test_weights_that_rest_on_few_cases_are_worth_few() -> None:
    assert effective_size([1.0] * 60, needed=59) == pytest.approx(60)
    assert effective_size([3.0, 1.0], needed=1) == pytest.approx(16 / 10)
    with pytest.raises(HaltPipeline, match="59 are needed"):
        effective_size([100.0] + [1.0] * 99, needed=59)
    with pytest.raises(ValueError, match="not all zero"):
        effective_size([0.0], needed=1)
