"""The plan for a certificate: published sample sizes, powers by hand, refusals, and what the command prints."""

from __future__ import annotations

import json

import pytest
from scipy.stats import binom
from typer.testing import CliRunner

from flows.cli import app
from pipeline.domain.planning import plan, power
from pipeline.errors import HaltPipeline

TABLE = {  # misses -> needed at delta 5 % / 1 %, for limits of 0.5, 1, 2, 5 and 10 %
    0: ((598, 919), (299, 459), (149, 228), (59, 90), (29, 44)),
    1: ((947, 1325), (473, 662), (236, 330), (93, 130), (46, 64)),
    2: ((1258, 1678), (628, 838), (313, 418), (124, 165), (61, 81)),
    3: ((1549, 2006), (773, 1001), (386, 499), (153, 198), (76, 97)),
    5: ((2100, 2618), (1049, 1307), (523, 652), (208, 259), (103, 127)),
    10: ((3389, 4024), (1693, 2010), (845, 1003), (336, 398), (167, 197)),
}


@pytest.mark.parametrize(("column", "alpha"), list(enumerate([0.005, 0.01, 0.02, 0.05, 0.1])))
@pytest.mark.parametrize(("place", "delta"), list(enumerate([0.05, 0.01])))
def test_the_cases_needed_for_a_number_of_misses_are_those_of_the_table(
    column: int, alpha: float, place: int, delta: float
) -> None:
    found = plan(alpha=alpha, delta=delta, rate=0.0)
    assert {k: found.for_misses[k] for k in TABLE} == {k: row[column][place] for k, row in TABLE.items()}


@pytest.mark.parametrize(
    ("alpha", "part", "at_80", "at_90"),
    [
        (0.01, 2, 1945, 2550),
        (0.02, 2, 970, 1275),
        (0.05, 2, 390, 510),
        (0.01, 4, 775, 915),
        (0.02, 4, 390, 460),
        (0.05, 4, 155, 185),
        (0.01, 10, 475, None),
        (0.02, 10, 240, None),
        (0.05, 10, 95, None),
    ],
)
def test_in_steps_of_five_the_first_number_with_the_wanted_power_is_the_published_one(
    alpha: float, part: int, at_80: int, at_90: int | None
) -> None:
    for wanted, published in ((0.8, at_80), (0.9, at_90)):
        if published is None:
            continue
        reached = [power(n, alpha=alpha, delta=0.05, rate=alpha / part) >= wanted for n in (published, published - 5)]
        assert reached == [True, False]
        found = plan(alpha=alpha, delta=0.05, rate=alpha / part, wanted=wanted)
        assert found.fewest <= published <= found.fewest + 30
        assert found.always >= found.fewest


def test_the_power_is_the_chance_of_no_more_misses_than_allowed() -> None:
    assert power(93, alpha=0.05, delta=0.05, rate=0.01) == pytest.approx(binom.cdf(1, 93, 0.01))
    assert power(58, alpha=0.05, delta=0.05, rate=0.0) == 0.0


def test_before_the_fewest_the_power_is_missed_and_from_always_on_it_never_is() -> None:
    found = plan(alpha=0.05, delta=0.05, rate=0.025)
    powers = [power(n, alpha=0.05, delta=0.05, rate=0.025) for n in range(1, 700)]
    assert min(n for n, p in enumerate(powers, start=1) if p >= 0.8) == found.fewest
    assert max(n for n, p in enumerate(powers, start=1) if p < 0.8) + 1 == found.always


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"delta": 0.0},
        {"rate": 0.05},
        {"rate": -0.1},
        {"wanted": 1.0},
        {"prevalence": 0.0},
        {"rate": float("nan")},
    ],
)
def test_a_plan_that_cannot_be_made_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(HaltPipeline, match="plan:"):
        plan(**{"alpha": 0.05, "delta": 0.05, "rate": 0.01, **wrong})


def test_a_limit_hardly_above_the_true_rate_is_told_to_need_too_many() -> None:
    with pytest.raises(HaltPipeline, match="more than 200000 cases"):
        plan(alpha=0.05, delta=0.05, rate=0.0499)


def test_the_command_prints_json_with_all_patients_counted() -> None:
    done = CliRunner().invoke(app, ["plan", "--alpha", "0.05", "--prevalence", "0.1", "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 0
    assert (found["for_misses"][0], found["patients"]) == (59, 10 * found["fewest"])


def test_the_command_says_it_in_words() -> None:
    done = CliRunner().invoke(app, ["plan", "--alpha", "0.05"])
    assert "59" in done.stdout
    assert "succeed with probability" in done.stdout
