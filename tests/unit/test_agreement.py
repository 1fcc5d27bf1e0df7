from __future__ import annotations

import math
import random

import pytest
from sklearn.metrics import cohen_kappa_score

from pipeline.domain.agreement import agreement_of, rate_interval

TABLE = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
"""Seen 35 of 50; by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5; kappa (0.7 - 0.5) / (1 - 0.5) = 0.4."""


def test_a_table_worked_by_hand() -> None:
    found = agreement_of(TABLE)
    assert (found.n, found.agreement) == (50, 0.7)
    assert found.kappa == pytest.approx(0.4)
    # 0.10972 on the diagonal, 0.36 * 0.283 off it, less (0.4 - 0.5 * 0.6)^2, over 50 * 0.25
    error = math.sqrt((0.10972 + 0.36 * 0.283 - 0.01) / (50 * 0.25))
    assert error == pytest.approx(0.126996, abs=1e-6)
    assert found.low == pytest.approx(0.4 - 1.959964 * error, abs=1e-6)
    assert found.high == pytest.approx(0.4 + 1.959964 * error, abs=1e-6)
    assert found.said == ""


@pytest.mark.parametrize("seed", range(20))
def test_kappa_is_that_of_an_independent_library(seed: int) -> None:
    draw = random.Random(seed)
    answers = ["a", "b", "c"][: draw.choice((2, 3))]
    pairs = [(one, one if draw.random() < 0.6 else draw.choice(answers)) for one in draw.choices(answers, k=40)]
    found = agreement_of(pairs)
    assert found.kappa == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Two raters who each are right in 80 % of cases with balanced truth: kappa is 0.36."""
    draw, held, rounds = random.Random(7), 0, 400
    for _ in range(rounds):
        truths = [draw.random() < 0.5 for _ in range(200)]
        pairs = [tuple(str(truth == (draw.random() < 0.8)) for _ in range(2)) for truth in truths]
        found = agreement_of(pairs)  # type: ignore[arg-type]
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.36 <= found.high
    assert 0.92 <= held / rounds <= 0.98


def test_swapping_the_raters_changes_nothing() -> None:
    assert agreement_of([(two, one) for one, two in TABLE]) == agreement_of(TABLE)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [([], "no case"), ([("a", "a")] * 9, "undefined")],
)
def test_what_is_undefined_is_none_and_said_in_words(pairs: list[tuple[str, str]], words: str) -> None:
    found = agreement_of(pairs)
    assert (found.kappa, found.low, found.high) == (None, None, None)
    assert words in found.said
    assert found.agreement in {None, 1.0}


def test_full_agreement_has_a_kappa_and_no_interval_that_pretends_to_be_sure() -> None:
    found = agreement_of([("a", "a")] * 3 + [("b", "b")] * 3)
    assert (found.agreement, found.kappa, found.low, found.high) == (1.0, 1.0, None, None)
    assert "no interval" in found.said


def test_raters_who_never_agree_are_below_chance() -> None:
    found = agreement_of([("a", "b"), ("b", "a")] * 5)
    assert found.kappa == pytest.approx(-1.0)


def test_the_interval_of_a_rate_is_wilsons() -> None:
    # 2 of 10: centre (0.2 + 3.8415 / 20) / 1.38415, by hand 0.0567 to 0.5098
    low, high = rate_interval(2, 10) or (0.0, 0.0)
    assert (round(low, 4), round(high, 4)) == (0.0567, 0.5098)
    assert rate_interval(0, 0) is None
    assert (rate_interval(0, 5) or (1.0, 0.0))[0] == 0.0
