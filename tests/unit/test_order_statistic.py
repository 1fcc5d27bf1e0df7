"""The order-statistic certificate, by hand and at its edges."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import pytest
from scipy.stats import binom

from pipeline.domain.certificate import Certificate, certify
from pipeline.domain.order_statistic import most_misses, order_statistic_rung
from pipeline.errors import HaltPipeline


def certificate(
    scores: Sequence[float], *, alpha: float = 0.05, delta: float = 0.05, side: str = "routine"
) -> Certificate:
    n = len(scores)
    positive = np.ones(n, dtype=bool) if side == "routine" else np.zeros(n, dtype=bool)
    return certify(
        [0.5],
        [True],
        scores,
        positive,
        [f"c{i}" for i in range(n)],
        tune_patients=["t"],
        alpha=alpha,
        delta=delta,
        side=side,  # type: ignore[arg-type]
        made_on=date(2026, 1, 1),
        expires_on=date(2027, 1, 1),
        dependencies={},
        method="order_statistic",
    )


@pytest.mark.parametrize(("n", "allowed"), [(58, None), (59, 0), (92, 0), (93, 1), (0, None)])
def test_the_most_misses_are_those_of_the_table_of_sample_sizes(n: int, allowed: int | None) -> None:
    assert most_misses(n, 0.05, 0.05) == allowed


def test_the_most_misses_are_the_largest_count_that_the_binomial_allows() -> None:
    for n in range(1, 401, 7):
        for alpha in (0.01, 0.05, 0.2):
            allowed = [k for k in range(n + 1) if sum(binom.pmf(range(k + 1), n, alpha)) <= 0.05]
            assert most_misses(n, alpha, 0.05) == (max(allowed) if allowed else None)


def test_with_58_positives_nothing_is_certified_and_with_59_all_below_the_lowest_score_is() -> None:
    rising = list(np.linspace(0.1, 0.9, 59))
    assert not certificate(rising[:58]).certified
    found = certificate(rising)
    assert found.threshold == pytest.approx(0.1)
    assert found.threshold is not None
    assert found.threshold < 0.1
    assert (found.misses, found.positives) == (0, 59)


def test_tied_scores_at_the_edge_are_all_kept_from_routine() -> None:
    scores = [0.3, 0.3, 0.3] + [0.8] * 100  # 103 positives: one miss is allowed, three tie
    found = certificate(scores)
    assert found.misses == 0


def test_gated_positives_stay_in_the_denominator_and_are_never_missed() -> None:
    found = certificate([0.2, *[float("inf")] * 99])
    assert found.positives == 100
    assert (found.misses, found.threshold) == (1, 0.2)  # one of a hundred is within what 5 % allows
    assert order_statistic_rung(np.full(100, np.inf), np.ones(100, dtype=bool), 0.05, 0.05) is None


def test_the_priority_side_is_the_mirror() -> None:
    scores = np.linspace(0.1, 0.9, 59)
    low, high = certificate(list(scores)), certificate(list(1 - scores), side="priority")
    assert low.threshold is not None
    assert high.threshold == pytest.approx(1 - low.threshold)


def test_its_proof_is_recomputed_when_it_is_read_back() -> None:
    content = certificate(list(np.linspace(0.1, 0.9, 100))).to_dict()
    assert Certificate.from_dict(content).method == "order_statistic"
    beyond = content | {"rungs": [content["rungs"][0] | {"k": 4, "p": float(binom.cdf(4, 100, 0.05))}]}
    with pytest.raises(HaltPipeline, match=r"order statistic|does not follow"):
        Certificate.from_dict(beyond)
    with pytest.raises(HaltPipeline, match="method is unknown"):
        Certificate.from_dict(content | {"method": "hope"})


def test_its_sentence_says_what_more_patients_would_do() -> None:
    assert "59 such patients without a single miss" in certificate([0.5] * 20).sentence()


@pytest.mark.parametrize(
    ("side", "covered", "open_"), [("routine", [None, 0.05, 0.0], [0.2, 0.95]), ("priority", [None, 0.95], [0.05])]
)
def test_a_certificate_covers_the_thresholds_on_its_safe_side(
    side: str, covered: list[float | None], open_: list[float]
) -> None:
    scores = np.linspace(0.1, 0.9, 100)
    found = certificate(list(scores), side=side)
    assert all(found.certifies(t) for t in covered)
    assert not any(found.certifies(t) for t in open_)
    assert not certificate([0.5] * 3).certifies(0.0)
    assert not found.certifies(float("nan"))
