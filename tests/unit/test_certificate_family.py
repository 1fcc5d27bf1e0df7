"""Several risks, groups, prevalence, capacity and conformal sets: numbers by hand, refusals, other libraries' answers."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pytest
from crepes.base import ConformalClassifier
from mapie.classification import SplitConformalClassifier
from scipy.stats import beta, binom
from sklearn.linear_model import LogisticRegression

from pipeline.domain.capacity import Fits, Infeasible, choose_rung
from pipeline.domain.conformal import ClassConformal, Verdict, prediction_sets
from pipeline.domain.ladder import Rung, exact_p_value
from pipeline.domain.prevalence import false_omission_bound, refuse_enriched
from pipeline.domain.several_risks import Kind, Risk, certify_several
from pipeline.domain.strata import StratifiedCertificate, age_band, certify_strata
from pipeline.errors import HaltPipeline

POSITIVE = np.arange(400) % 4 == 0  # a hundred with the finding


def scores(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=400) + 4.0 * POSITIVE


def test_each_kind_of_risk_counts_its_own_cases() -> None:
    s, y = np.array([0.1, 0.2, 0.3, 0.9]), np.array([True, False, False, True])
    counted = {kind: Risk(kind=kind, alpha=0.5).count(0.2, s, y) for kind in Kind}
    assert counted == {"missed": (1, 2), "omitted": (1, 2), "joint": (1, 4), "deferred": (2, 4)}


def test_a_rung_is_certified_when_the_worst_of_its_risks_is() -> None:
    risks = [Risk(kind=Kind.MISSED, alpha=0.1), Risk(kind=Kind.DEFERRED, alpha=0.5)]
    found = certify_several(scores(0), POSITIVE, scores(1), POSITIVE, risks, delta=0.05)
    assert found.threshold is not None
    for place in found.certified:
        (k, n), (deferred, cases) = found.rungs[place].counts
        worst = max(binom.cdf(k, n, 0.1), binom.cdf(deferred, cases, 0.5))
        assert found.rungs[place].p == pytest.approx(worst)
        assert worst <= 0.05


def test_a_safe_policy_that_no_one_can_afford_is_no_policy() -> None:
    risks = [Risk(kind=Kind.MISSED, alpha=0.1), Risk(kind=Kind.DEFERRED, alpha=0.1)]
    assert certify_several(scores(0), POSITIVE, scores(1), POSITIVE, risks, delta=0.05).threshold is None


def test_risks_without_cases_or_limits_are_refused_or_certify_nothing() -> None:
    none = np.zeros(400, dtype=bool)
    alone = [Risk(kind=Kind.MISSED, alpha=0.1)]
    assert certify_several(scores(0), none, scores(1), none, alone, delta=0.05).threshold is None
    gated = np.full(400, np.inf)
    assert certify_several(gated, POSITIVE, gated, POSITIVE, alone, delta=0.05).rungs == ()
    for wrong in ([], [Risk(kind=Kind.MISSED, alpha=0.0)]):
        with pytest.raises(HaltPipeline, match="limit between 0 and 1"):
            certify_several(scores(0), POSITIVE, scores(1), POSITIVE, wrong, delta=0.05)


def strata(groups: list[str | None], tune_groups: list[str | None] | None = None) -> StratifiedCertificate:
    return certify_strata(
        scores(0),
        POSITIVE,
        tune_groups or groups,
        scores(1),
        POSITIVE,
        groups,
        [f"c{i}" for i in range(400)],
        tune_patients=[f"t{i}" for i in range(400)],
        alpha=0.2,
        delta=0.1,
        side="routine",
        made_on=date(2026, 1, 1),
        expires_on=date(2027, 1, 1),
        dependencies={},
    )


def test_every_group_is_certified_at_its_share_of_delta_on_its_own_cases() -> None:
    found = strata(["north" if i < 320 else "south" for i in range(400)])
    assert {name: (one.delta, one.positives) for name, one in found.groups.items()} == {
        "north": (0.05, 80),
        "south": (0.05, 20),
    }
    assert found.threshold_for("north") is not None
    assert set(found.sentences()) == {"north", "south"}


def test_a_group_that_is_small_unknown_or_unnamed_has_no_threshold() -> None:
    found = strata(["north" if i < 380 else "south" if i < 396 else None for i in range(400)])
    assert found.threshold_for("south") is None  # four patients with the finding
    assert found.threshold_for("west") is None
    assert found.threshold_for(None) is None
    assert found.threshold_for("") is None


def test_the_groups_are_those_of_the_tune_split() -> None:
    here: list[str | None] = ["north" if i < 200 else "south" for i in range(400)]
    found = strata(here, ["north"] * 400)
    assert set(found.groups) == {"north"}


def test_certificates_by_group_go_through_json_and_a_larger_share_is_refused() -> None:
    content = strata(["north" if i < 200 else "south" for i in range(400)]).to_dict()
    assert StratifiedCertificate.from_dict(content).to_dict() == content
    with pytest.raises(HaltPipeline, match="more than its share of delta"):
        StratifiedCertificate.from_dict(content | {"delta": 0.05})
    with pytest.raises(HaltPipeline, match="unreadable"):
        StratifiedCertificate.from_dict({"side": "routine"})


@pytest.mark.parametrize(
    ("years", "band"),
    [(0, "under 18"), (17.9, "under 18"), (18, "18 to 64"), (65, "65 and older"), (None, None), (-1, None)],
)
def test_ages_have_bands_and_unknown_ones_none(years: float | None, band: str | None) -> None:
    assert age_band(years) == band


def test_the_false_omission_bound_is_bayes_rule_on_both_bounds() -> None:
    found = false_omission_bound(misses=2, positives=200, kept=150, negatives=300, largest_prevalence=0.05, delta=0.1)
    upper, lower = beta.ppf(0.95, 3, 198), beta.ppf(0.05, 150, 151)
    assert found.bound == pytest.approx(0.05 * upper / (0.05 * upper + 0.95 * lower))
    assert "no more than 5 %" in found.sentence()


def test_nothing_kept_bounds_nothing_and_impossible_counts_are_refused() -> None:
    empty = {"misses": 0, "positives": 0, "kept": 0, "negatives": 0}
    assert false_omission_bound(**empty, largest_prevalence=0.1, delta=0.05).bound == 1.0  # type: ignore[arg-type]
    with pytest.raises(HaltPipeline, match="impossible"):
        false_omission_bound(misses=3, positives=2, kept=0, negatives=1, largest_prevalence=0.1, delta=0.05)
    with pytest.raises(HaltPipeline, match="derive it from the miss rate"):
        refuse_enriched(0.5, 0.05)
    refuse_enriched(0.05, 0.05)


def rung(threshold: float) -> Rung:
    return Rung(threshold=threshold, k=0, n=100, p=0.01)


def test_the_certified_rung_that_defers_least_is_chosen_when_a_busy_day_fits() -> None:
    found = choose_rung([rung(0.1), rung(0.2)], [60, 40], 100, studies_per_day=50, capacity=40)
    assert isinstance(found, Fits)
    upper = beta.ppf(0.95, 41, 60)
    assert (found.rung.threshold, found.deferral_upper) == (0.2, pytest.approx(upper))
    assert found.reads_on_a_busy_day == binom.ppf(0.95, 50, upper)


def test_infeasible_is_an_answer_and_names_what_it_would_take() -> None:
    found = choose_rung([rung(0.1)], [60], 100, studies_per_day=50, capacity=10)
    assert isinstance(found, Infeasible)
    assert found.fewest_reads is not None
    assert str(found.fewest_reads) in found.sentence()
    nothing = choose_rung([], [], 100, studies_per_day=50, capacity=10)
    assert isinstance(nothing, Infeasible)
    assert "every study is deferred" in nothing.sentence()
    with pytest.raises(ValueError, match="one count"):
        choose_rung([rung(0.1)], [101], 100, studies_per_day=50, capacity=10)


def probabilities(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=n)
    logits = generator.normal(size=(n, 3)) + 2.0 * np.eye(3)[labels]
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), labels


def test_mondrian_p_values_are_those_of_crepes() -> None:
    calibration, labels = probabilities(0, 200)
    new, _ = probabilities(1, 50)
    ours = ClassConformal.fit(calibration, np.eye(3)[labels], [0.1] * 3).p_values(new)
    theirs = ConformalClassifier()
    theirs.fit(1.0 - calibration[np.arange(200), labels], bins=labels)
    for c in range(3):
        expected = theirs.predict_p(1.0 - new[:, [c]], bins=np.full(50, c), smoothing=False)
        np.testing.assert_allclose(ours[:, c], expected[:, 0])


def test_marginal_sets_are_those_of_mapie() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=400)
    x = generator.normal(size=(400, 2)) + 1.5 * np.stack([labels == 1, labels == 2], axis=1)
    model = LogisticRegression().fit(x[:100], labels[:100])
    theirs = SplitConformalClassifier(model, confidence_level=0.9, conformity_score="lac", prefit=True)
    theirs.conformalize(x[100:300], labels[100:300])
    _, sets = theirs.predict_set(x[300:])
    ours = prediction_sets(model.predict_proba(x[100:300]), labels[100:300], model.predict_proba(x[300:]), 0.1)
    np.testing.assert_array_equal(ours, sets[:, :, 0])


def test_too_few_cases_keep_every_class() -> None:
    p, labels = probabilities(0, 8)
    assert prediction_sets(p, labels, p, 0.1).all()  # rank 9 of 8
    lonely = ClassConformal.fit(p, np.zeros((8, 3)), [0.05] * 3)
    assert (lonely.p_values(p) == 1.0).all()
    assert ClassConformal.fit(p, np.eye(3)[labels], [0.05] * 3, delta=0.05).sets(p).all()  # needs 59 of a class


def test_a_set_of_one_class_is_handled_alone_only_where_that_class_may_be() -> None:
    ready = ClassConformal(scores=tuple(np.linspace(0.5, 0.9, 99) for _ in range(3)), alpha=(0.1,) * 3)
    cases = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.6, 0.6, 0.1], [0.3, 0.3, 0.4]])
    assert ready.verdicts(cases, alone=[0]) == (Verdict.ALONE, Verdict.READER, Verdict.SEVERAL, Verdict.NOTHING)


def test_unknown_labels_calibrate_no_class_and_undefined_probabilities_are_refused() -> None:
    p = np.array([[0.2, 0.7], [0.4, 0.6], [0.9, 0.1]])
    truth = np.array([[1, np.nan], [0, 1], [1, 0]])
    found = ClassConformal.fit(p, truth, [0.1, 0.1])
    assert [list(s) for s in found.scores] == [[0.2, 0.9], [0.6]]
    with pytest.raises(ValueError, match="finite"):
        found.p_values(np.array([[np.nan, 0.5]]))
    with pytest.raises(ValueError, match="limit between 0 and 1"):
        ClassConformal.fit(p, truth, [0.0, 0.1])


def test_counts_are_integers_where_a_rate_times_a_number_would_round_up() -> None:
    """Three misses in a hundred at 8 %: the exact p-value is 0.037; a count of four, as ceil(100 * (1 - 0.97)) gives in
    floating point, makes it 0.090 and refuses a certificate that is due.
    """
    n, k = 100, 3
    assert exact_p_value(k, n, 0.08) == pytest.approx(0.0367, abs=5e-4)
    rounded: Any = int(np.ceil(n * (1 - (n - k) / n)))
    assert rounded == 4
    assert exact_p_value(rounded, n, 0.08) == pytest.approx(0.0903, abs=5e-4)
