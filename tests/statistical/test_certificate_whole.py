"""Certification as it is called, on the data that tempt it: ties, one kind of case only, rare findings, groups, wrong labels.

Scores are binormal with AUC 0.95, so that the true rate behind every threshold is known. In `runs` certifications at delta =
5 % more than binom.ppf(0.999, runs, 0.05) violations happen by chance once in a thousand. Every simulation also checks that
it can see: certificates are granted and useful, or a rule without a guarantee breaks its promise on the same draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, norm

from pipeline.domain.certificate import Certificate, certify
from pipeline.domain.order_statistic import most_misses, order_statistic_rung
from pipeline.domain.several_risks import Kind, Risk, certify_several
from pipeline.domain.strata import certify_strata

pytestmark = pytest.mark.statistical

DISTANCE = float(np.sqrt(2) * norm.ppf(0.95))
DELTA = 0.05
FIXED: Mapping[str, Any] = {"made_on": date(2026, 1, 1), "expires_on": date(2027, 1, 1), "dependencies": {}}
Case = tuple[np.ndarray, np.ndarray]


def most_violations(runs: int) -> int:
    return int(binom.ppf(0.999, runs, DELTA))


def draw(generator: np.random.Generator, n: int, prevalence: float, distance: float = DISTANCE) -> Case:
    positive = generator.random(n) < prevalence
    return generator.normal(size=n) + distance * positive, positive


def together(generator: np.random.Generator, each: int, distances: Mapping[str, float]) -> Case:
    """`each` cases of every group, one group after the other."""
    drawn = [draw(generator, each, 0.3, distance) for distance in distances.values()]
    return np.concatenate([scores for scores, _ in drawn]), np.concatenate([positive for _, positive in drawn])


def certified(tune: Case, cases: Case, *, alpha: float, side: str = "routine", method: str = "ladder") -> Certificate:
    return certify(
        *tune,
        *cases,
        [f"c{i}" for i in range(len(cases[0]))],
        tune_patients=[f"t{i}" for i in range(len(tune[0]))],
        alpha=alpha,
        delta=DELTA,
        side=side,
        method=method,
        **FIXED,
    )


def missed(threshold: float, distance: float = DISTANCE) -> float:
    return float(norm.cdf(threshold - distance))


def in_routine(threshold: float, prevalence: float) -> float:
    return prevalence * missed(threshold) + (1 - prevalence) * float(norm.cdf(threshold))


def test_the_order_statistic_violates_exactly_as_often_as_its_formula_says() -> None:
    """Two hundred cases at risk, 5 %: binom.cdf(4, 200, 0.05) = 2.64 %; both sides of the count are held at 0.001."""
    runs, generator = 4000, np.random.default_rng(21)
    allowed = most_misses(200, 0.05, DELTA)
    expected = float(binom.cdf(allowed, 200, 0.05))
    at_risk = np.ones(200, dtype=bool)
    wrong = 0
    for _ in range(runs):
        rung = order_statistic_rung(generator.normal(size=200), at_risk, 0.05, DELTA)
        wrong += rung is not None and norm.cdf(rung.threshold) > 0.05
    assert (allowed, round(expected, 4)) == (4, 0.0264)
    assert binom.ppf(0.001, runs, expected) <= wrong <= binom.ppf(0.999, runs, expected)


@pytest.mark.parametrize("grid", [0.01, 0.5], ids=["ties", "heavy ties"])
def test_the_order_statistic_only_gets_more_careful_with_ties(grid: float) -> None:
    runs, generator, wrong, routine = 300, np.random.default_rng(22), 0, []
    for _ in range(runs):
        tune, cases = (
            (np.round(s / grid) * grid, p) for s, p in (draw(generator, 500, 0.3), draw(generator, 500, 0.3))
        )
        found = certified(tune, cases, alpha=0.1, method="order_statistic")
        assert found.threshold is not None
        edge = grid * (np.ceil(found.threshold / grid - 1e-6) - 0.5)  # of the raw scores that round below the threshold
        wrong += missed(edge) > 0.1
        routine.append(in_routine(edge, 0.3))
    assert wrong <= most_violations(runs)
    assert np.mean(routine) > 0.4


def test_on_the_priority_side_the_order_statistic_keeps_its_promise_and_is_as_useful_as_the_ladder() -> None:
    runs, generator = 300, np.random.default_rng(23)
    wrong, caught = {"ladder": 0, "order_statistic": 0}, {"ladder": [], "order_statistic": []}
    for _ in range(runs):
        tune, cases = draw(generator, 800, 0.3), draw(generator, 800, 0.3)
        for method in wrong:
            found = certified(tune, cases, alpha=0.05, side="priority", method=method)
            assert found.threshold is not None
            wrong[method] += norm.sf(found.threshold) > 0.05
            caught[method].append(norm.sf(found.threshold - DISTANCE))
    assert max(wrong.values()) <= most_violations(runs)
    assert np.mean(caught["order_statistic"]) >= np.mean(caught["ladder"]) > 0.5


@pytest.mark.parametrize("method", ["ladder", "order_statistic"])
def test_without_a_single_finding_nothing_is_certified(method: str) -> None:
    generator = np.random.default_rng(24)
    for _ in range(30):
        found = certified(draw(generator, 300, 0.3), draw(generator, 300, 0.0), alpha=0.1, method=method)
        assert (found.certified, found.threshold, found.positives) == (False, None, 0)


@pytest.mark.parametrize("method", ["ladder", "order_statistic"])
def test_findings_only_are_enough_to_certify_the_routine_side_and_nothing_for_the_other(method: str) -> None:
    runs, generator, wrong, granted = 300, np.random.default_rng(25), 0, 0
    for _ in range(runs):
        tune, cases = draw(generator, 200, 1.0), draw(generator, 200, 1.0)
        found = certified(tune, cases, alpha=0.1, method=method)
        granted += found.certified
        wrong += found.threshold is not None and missed(found.threshold) > 0.1
        assert not certified(tune, cases, alpha=0.1, side="priority", method=method).certified
    assert wrong <= most_violations(runs)
    assert granted > 0.9 * runs


def test_at_a_prevalence_of_one_percent_ten_thousand_cases_certify_and_the_promise_holds() -> None:
    runs, generator, wrong, routine = 300, np.random.default_rng(26), 0, []
    for _ in range(runs):
        found = certified(
            draw(generator, 500, 0.01), draw(generator, 10_000, 0.01), alpha=0.05, method="order_statistic"
        )
        if found.threshold is not None:
            wrong += missed(found.threshold) > 0.05
            routine.append(in_routine(found.threshold, 0.01))
    assert wrong <= most_violations(runs)
    assert len(routine) > 0.95 * runs  # about a hundred findings, and 59 without a miss are enough
    assert np.mean(routine) > 0.4


def test_several_limits_hold_at_once_on_every_certified_rung() -> None:
    """At most 10 % missed findings, 2 % of ROUTINE with the finding, 60 % left to readers: no rung may break any of them."""
    risks = [
        Risk(kind=Kind.MISSED, alpha=0.1),
        Risk(kind=Kind.OMITTED, alpha=0.02),
        Risk(kind=Kind.DEFERRED, alpha=0.6),
    ]
    runs, generator, wrong, granted, naive = 300, np.random.default_rng(27), 0, 0, 0

    def broken(t: float) -> bool:
        routine = in_routine(t, 0.1)
        return missed(t) > 0.1 or 0.1 * missed(t) / routine > 0.02 or 1 - routine > 0.6

    for _ in range(runs):
        found = certify_several(*draw(generator, 1500, 0.1), *draw(generator, 1500, 0.1), risks, delta=DELTA)
        granted += found.threshold is not None
        wrong += any(broken(found.rungs[place].threshold) for place in found.certified)
        fits = [r for r in found.rungs if all(k <= a.alpha * n for (k, n), a in zip(r.counts, risks, strict=True))]
        naive += any(broken(rung.threshold) for rung in fits)
    assert wrong <= most_violations(runs)
    assert granted > 0.8 * runs
    assert naive > 0.1 * runs


def test_five_groups_hold_together_where_one_pooled_threshold_fails_the_hardest_group() -> None:
    """Four groups of AUC 0.95 and one whose findings are a standard deviation fainter."""
    distances = {"a": DISTANCE, "b": DISTANCE, "c": DISTANCE, "d": DISTANCE, "faint": DISTANCE - 1.0}
    runs, each, generator, wrong, pooled, granted = 200, 400, np.random.default_rng(28), 0, 0, 0
    groups = [name for name in distances for _ in range(each)]
    patients = [f"c{i}" for i in range(len(groups))]
    for _ in range(runs):
        tune, cases = together(generator, each, distances), together(generator, each, distances)
        found = certify_strata(
            *tune,
            groups,
            *cases,
            groups,
            patients,
            tune_patients=[f"t{i}" for i in range(len(groups))],
            alpha=0.1,
            delta=DELTA,
            side="routine",
            method="order_statistic",
            **FIXED,
        )
        thresholds = {name: found.threshold_for(name) for name in distances}
        granted += all(t is not None for t in thresholds.values())
        wrong += any(t is not None and missed(t, distances[name]) > 0.1 for name, t in thresholds.items())
        whole = certified(tune, cases, alpha=0.1, method="order_statistic").threshold
        pooled += whole is not None and missed(whole, distances["faint"]) > 0.1
    assert wrong <= most_violations(runs)
    assert granted == runs
    assert pooled > 0.95 * runs


@pytest.mark.parametrize("method", ["ladder", "order_statistic"])
def test_labels_of_other_cases_certify_nothing_worth_having(method: str) -> None:
    """With shuffled labels the missed share is the share in ROUTINE, so that nothing above the limit itself can pass."""
    runs, generator, honest, shuffled, omitted = 100, np.random.default_rng(29), 0, 0, 0
    for _ in range(runs):
        tune, (scores, positive) = draw(generator, 2000, 0.1), draw(generator, 2000, 0.1)
        wrong_labels = generator.permutation(positive)
        threshold = certified(tune, (scores, positive), alpha=0.05, method=method).threshold
        honest += threshold is not None and in_routine(threshold, 0.1) > 0.3
        threshold = certified(tune, (scores, wrong_labels), alpha=0.05, method=method).threshold
        shuffled += threshold is not None and float((scores <= threshold).mean()) > 0.08
        risk = Risk(kind=Kind.OMITTED, alpha=0.02)
        omitted += certify_several(*tune, scores, wrong_labels, [risk], delta=DELTA).threshold is not None
    assert honest == runs
    assert shuffled <= binom.ppf(0.999, runs, 0.05)
    assert omitted == 0
