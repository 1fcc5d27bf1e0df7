from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.domain import deferral, guards
from pipeline.domain.case import Reason, Route
from pipeline.domain.deferral import ROUTINE_GUARDS, decide
from pipeline.domain.evidence import Analysis, Evidence, NoveltySummary, Policy, ScopeVerdict, UncertaintySummary
from pipeline.domain.study import Completeness, SealEvidence

TODAY = date(2026, 3, 1)
NAN, INF = math.nan, math.inf

POLICY = Policy(
    release_digest="r" * 64,
    protocol_digest="p" * 64,
    members=3,
    passes=10,
    routine_below=0.2,
    priority_above=0.9,
    mutual_information_limit=0.05,
    novelty_level=0.02,
    certificate_expires=date(2026, 12, 31),
    sampling="fixed",
)


def uncertainty(**changes: Any) -> UncertaintySummary:
    values: dict[str, Any] = {
        "classes": ("no_tumour", "tumour"),
        "probabilities": (0.9, 0.1),
        "route_score": 0.1,
        "predictive_entropy": 0.33,
        "expected_entropy": 0.31,
        "mi_dropout": 0.01,
        "mi_member": 0.01,
        "mutual_information": 0.021,
        "members": 3,
        "passes": 10,
        "budget": 10,
        "stop": "budget",
        "samples_digest": "d" * 64,
        "member_scores": (0.1, 0.1, 0.1),
    }
    return UncertaintySummary(**{**values, **changes})


def novelty(**changes: Any) -> NoveltySummary:
    values: dict[str, Any] = {"p_values": (("histogram", 0.4), ("features", 0.6)), "combined": 0.8, "fired": ()}
    return NoveltySummary(**{**values, **changes})


def analysis(**changes: Any) -> Analysis:
    return Analysis(**{"uncertainty": uncertainty(), "novelty": novelty(), "depths": (20,), **changes})


def seal(**changes: Any) -> SealEvidence:
    values: dict[str, Any] = {
        "completeness": Completeness.PROVEN,
        "kind": "gap_check",
        "detail": "20 of 20 images without a gap",
        "instances": 20,
        "series": 1,
        "quarantined": 0,
    }
    return SealEvidence(**{**values, **changes})


def evidence(**changes: Any) -> Evidence:
    values: dict[str, Any] = {
        "scope": ScopeVerdict(in_scope=True),
        "seal": seal(),
        "manifest_slices": 20,
        "decoded_slices": 20,
        "analysis": analysis(),
        "release_digest": "r" * 64,
        "protocol_digest": "p" * 64,
        "safe_state": False,
    }
    return Evidence(**{**values, **changes})


def like(value: Any) -> SimpleNamespace:
    """The same fields in another class."""
    return SimpleNamespace(**{name: getattr(value, name) for name in value.__dataclass_fields__})


def scored(score: float) -> Evidence:
    return evidence(analysis=analysis(uncertainty=uncertainty(route_score=score)))


def sampled(**changes: Any) -> Evidence:
    return evidence(analysis=analysis(uncertainty=uncertainty(**changes)))


def looked(**changes: Any) -> Evidence:
    return evidence(analysis=analysis(novelty=novelty(**changes)))


def test_a_case_that_satisfies_every_guard_with_a_low_score_is_routine() -> None:
    found = decide(evidence(), POLICY, TODAY)
    assert found.route == Route.ROUTINE
    assert found.reasons == (Reason.CONFIDENT_ABSENCE,)
    assert found.guards == tuple((name, True) for name in ROUTINE_GUARDS)


def test_a_case_that_satisfies_every_guard_with_a_high_score_is_priority() -> None:
    found = decide(scored(0.95), POLICY, TODAY)
    assert (found.route, found.reasons) == (Route.PRIORITY, (Reason.CONFIDENT_FINDING,))
    assert all(answer is True for _, answer in found.guards)


def test_a_score_between_the_thresholds_is_uncertain() -> None:
    found = decide(scored(0.5), POLICY, TODAY)
    assert (found.route, found.reasons) == (Route.REVIEW, (Reason.UNCERTAIN,))


Fault = tuple[str, set[str], tuple[Reason, ...], Evidence, Policy]


def held(**changes: Any) -> Policy:
    return replace(POLICY, **changes)


def fault(name: str, fallen: str, reasons: str, case: Evidence, policy: Policy = POLICY) -> Fault:
    return name, set(fallen.split()), tuple(Reason(r) for r in reasons.split()), case, policy


# Each row breaks one thing: its name, the guards that fall, the reasons shown, the evidence and the policy.
# fmt: off
FAULTS = [
    fault("the safe state is on", "safe_state_off", "STOPPED", evidence(safe_state=True)),
    fault("the safe state is unknown", "safe_state_off", "STOPPED", evidence(safe_state=None)),
    fault("the safe state is 0", "safe_state_off", "STOPPED", evidence(safe_state=0)),
    fault("another release", "release_matches", "RELEASE_INVALID", evidence(release_digest="x" * 64)),
    fault("no release digest", "release_matches", "RELEASE_INVALID", evidence(release_digest=None)),
    fault("empty digests that agree", "release_matches", "RELEASE_INVALID", evidence(release_digest=""), held(release_digest="")),
    fault("another protocol", "release_matches", "RELEASE_INVALID", evidence(protocol_digest="x" * 64)),
    fault("no protocol digest", "release_matches", "RELEASE_INVALID", evidence(protocol_digest=None)),
    fault("an expired certificate", "certificate_valid", "CERTIFICATE_EXPIRED", evidence(), held(certificate_expires=date(2026, 2, 28))),
    fault("a moment as the expiry day", "certificate_valid", "CERTIFICATE_EXPIRED", evidence(), held(certificate_expires=datetime(2027, 1, 1, tzinfo=UTC))),
    fault("no expiry day", "certificate_valid", "CERTIFICATE_EXPIRED", evidence(), held(certificate_expires=None)),
    fault("nothing certified", "certificate_valid score_certified", "NOT_CERTIFIED", evidence(), held(routine_below=None, priority_above=None)),
    fault("an undefined threshold on the other side", "certificate_valid", "NOT_CERTIFIED", evidence(), held(priority_above=NAN)),
    fault("an infinite threshold", "certificate_valid score_certified", "NOT_CERTIFIED", evidence(), held(routine_below=INF)),
    fault("the scope is unknown", "in_scope", "SCOPE_UNKNOWN", evidence(scope=ScopeVerdict(in_scope=None))),
    fault("the scope was not judged", "in_scope", "SCOPE_UNKNOWN", evidence(scope=None)),
    fault("the scope verdict is not literally True", "in_scope", "SCOPE_UNKNOWN", evidence(scope=ScopeVerdict(in_scope=np.True_))),
    fault("the scope contradicts itself", "in_scope", "SCOPE_UNKNOWN", evidence(scope=ScopeVerdict(in_scope=True, reasons=(Reason.WRONG_AGE,)))),
    fault("no seal", "complete", "INCOMPLETE", evidence(seal=None)),
    fault("completeness is unknown", "complete", "INCOMPLETE", evidence(seal=seal(completeness=Completeness.UNKNOWN))),
    fault("completeness is contradicted", "complete", "INCOMPLETE", evidence(seal=seal(completeness=Completeness.CONTRADICTED))),
    fault("completeness is a plain word", "complete", "INCOMPLETE", evidence(seal=seal(completeness="PROVEN"))),
    fault("an image in quarantine", "complete", "UNREADABLE", evidence(seal=seal(quarantined=1))),
    fault("an unknown number in quarantine", "complete", "UNREADABLE", evidence(seal=seal(quarantined=None))),
    fault("a seal over nothing", "complete", "INCOMPLETE", evidence(seal=seal(instances=0))),
    fault("two identities", "complete", "IDENTITY_CONFLICT", evidence(seal=seal(problems=("IDENTITY_CONFLICT",)))),
    fault("late images", "complete", "LATE_DATA", evidence(seal=seal(problems=(Reason.LATE_DATA,)))),
    fault("a problem on the way", "no_problems", "UNREADABLE", evidence(problems=((Reason.UNREADABLE, "slice 3"),))),
    fault("problems not listed", "no_problems", "NOT_ANALYSED", evidence(problems=None)),
    fault("a problem without a known reason", "no_problems", "NOT_ANALYSED", evidence(problems=(("WHATEVER", "x"),))),
    fault("a slice not decoded", "all_decoded", "INCOMPLETE", evidence(decoded_slices=19)),
    fault("nothing decoded", "all_decoded", "UNREADABLE", evidence(decoded_slices=0)),
    fault("decoding not counted", "all_decoded", "NOT_ANALYSED", evidence(decoded_slices=None)),
    fault("no manifest", "all_decoded", "NOT_ANALYSED", evidence(manifest_slices=None)),
    fault("counts that are not counts", "all_decoded", "NOT_ANALYSED", evidence(manifest_slices=20.0, decoded_slices=20.0)),
    fault("the network saw fewer slices", "all_decoded", "INCOMPLETE", evidence(analysis=analysis(depths=(19,)))),
    fault("the network saw nothing", "all_decoded", "INCOMPLETE", evidence(analysis=analysis(depths=()))),
    fault("low quality", "quality_ok", "LOW_QUALITY", evidence(quality=(Reason.LOW_QUALITY,))),
    fault("quality not judged", "quality_ok", "NOT_ANALYSED", evidence(quality=None)),
    fault("a missing member", "members_complete", "UNCERTAINTY_INVALID", sampled(members=2, member_scores=(0.1, 0.1))),
    fault("a member without a score", "members_complete", "UNCERTAINTY_INVALID", sampled(member_scores=(0.1, 0.1))),
    fault("members as True", "members_complete", "UNCERTAINTY_INVALID", sampled(members=True, member_scores=()), held(members=1)),
    fault("a missing pass", "passes_complete", "UNCERTAINTY_INVALID", sampled(passes=9)),
    fault("a pass too many", "passes_complete", "UNCERTAINTY_INVALID", sampled(passes=11)),
    fault("passes not counted", "passes_complete", "UNCERTAINTY_INVALID", sampled(passes=None), held(passes=None)),
    fault("a budget that is not the policy's", "passes_complete", "UNCERTAINTY_INVALID", sampled(budget=11)),
    fault("no budget", "passes_complete", "UNCERTAINTY_INVALID", sampled(budget=0)),
    fault("no reason to stop", "passes_complete", "UNCERTAINTY_INVALID", sampled(stop="")),
    fault("settled where every pass was asked for", "passes_complete", "UNCERTAINTY_INVALID", sampled(passes=4, stop="settled")),
    fault("an unknown way of sampling", "passes_complete", "UNCERTAINTY_INVALID", evidence(), held(sampling="")),
    fault("settled after one round", "passes_complete", "UNCERTAINTY_INVALID", sampled(passes=1, stop="settled"), held(sampling="adaptive")),
    fault("settled with every pass made", "passes_complete", "UNCERTAINTY_INVALID", sampled(stop="settled"), held(sampling="adaptive")),
    fault("stopped early at the budget", "passes_complete", "UNCERTAINTY_INVALID", sampled(passes=9), held(sampling="adaptive")),
    fault("adaptive with another budget", "passes_complete", "UNCERTAINTY_INVALID", sampled(passes=4, stop="settled", budget=20), held(sampling="adaptive")),
    fault("dropout where none was asked for", "passes_complete", "UNCERTAINTY_INVALID", evidence(), held(sampling="off")),
    fault("one look where dropout was asked for", "passes_complete", "UNCERTAINTY_INVALID", sampled(passes=1, budget=1, stop="off")),
    fault("an undefined probability", "finite", "UNCERTAINTY_INVALID", sampled(probabilities=(NAN, 0.1))),
    fault("probabilities off one", "finite", "UNCERTAINTY_INVALID", sampled(probabilities=(0.9, 0.2))),
    fault("a class short", "finite", "UNCERTAINTY_INVALID", sampled(probabilities=(1.0,))),
    fault("an infinite entropy", "finite", "UNCERTAINTY_INVALID", sampled(predictive_entropy=INF)),
    fault("an impossible entropy", "finite", "UNCERTAINTY_INVALID", sampled(expected_entropy=0.7)),
    fault("a negative entropy", "finite", "UNCERTAINTY_INVALID", sampled(predictive_entropy=-0.1)),
    fault("an undefined dropout part", "finite", "UNCERTAINTY_INVALID", sampled(mi_dropout=NAN)),
    fault("a missing member part", "finite", "UNCERTAINTY_INVALID", sampled(mi_member=None)),
    fault("negative information", "finite", "UNCERTAINTY_INVALID", sampled(mutual_information=-0.1)),
    fault("an undefined member score", "finite", "UNCERTAINTY_INVALID", sampled(member_scores=(0.1, NAN, 0.1))),
    fault("no digest of the samples", "finite", "UNCERTAINTY_INVALID", sampled(samples_digest="")),
    fault("an undefined score", "finite score_certified", "UNCERTAINTY_INVALID UNCERTAIN", sampled(route_score=NAN)),
    fault("a negative score", "finite score_certified", "UNCERTAINTY_INVALID UNCERTAIN", sampled(route_score=-0.1)),
    fault("a score as text", "finite score_certified", "UNCERTAINTY_INVALID UNCERTAIN", sampled(route_score="0.1")),
    fault("a score as False", "finite score_certified", "UNCERTAINTY_INVALID UNCERTAIN", sampled(route_score=False)),
    fault("novel images", "in_distribution", "NOVEL", looked(combined=0.01, fired=("features",))),
    fault("a p-value on the level", "in_distribution", "NOVEL", looked(combined=0.02)),
    fault("a detector that fired alone", "in_distribution", "NOVEL", looked(fired=("features",))),
    fault("an undefined p-value", "in_distribution", "NOVEL", looked(combined=NAN)),
    fault("an undefined detector", "in_distribution", "NOVEL", looked(p_values=(("features", NAN),))),
    fault("no detector", "in_distribution", "NOVEL", looked(p_values=())),
    fault("novelty missing", "in_distribution", "NOVEL", evidence(analysis=analysis(novelty=None))),
    fault("an undefined novelty level", "in_distribution", "NOVEL", evidence(), held(novelty_level=NAN)),
    fault("members that disagree", "certain", "UNCERTAIN", sampled(mutual_information=0.0501)),
    fault("an undefined limit of information", "certain", "UNCERTAIN", evidence(), held(mutual_information_limit=NAN)),
    fault("undefined information", "finite certain", "UNCERTAINTY_INVALID UNCERTAIN", sampled(mutual_information=NAN)),
    fault("a score between the thresholds", "score_certified", "UNCERTAIN", scored(0.2000001)),
    fault("a low score with only the upper side certified", "score_certified", "NOT_CERTIFIED", evidence(), held(routine_below=None)),
    fault("a high score with only the lower side certified", "score_certified", "NOT_CERTIFIED", scored(0.95), held(priority_above=None)),
    fault("a score that both sides claim", "score_certified", "UNCERTAIN", scored(0.5), held(routine_below=0.6, priority_above=0.4)),
    fault("a score that both sides touch", "score_certified", "UNCERTAIN", scored(0.5), held(routine_below=0.5, priority_above=0.5)),
    fault("empty protocol digests that agree", "release_matches", "RELEASE_INVALID", evidence(protocol_digest=""), held(protocol_digest="")),
    fault("digests that are no text", "release_matches", "RELEASE_INVALID", evidence(release_digest=7), held(release_digest=7)),
    fault("a scope of another kind", "in_scope", "SCOPE_UNKNOWN", evidence(scope=like(ScopeVerdict(in_scope=True)))),
    fault("a seal of another kind", "complete", "INCOMPLETE", evidence(seal=like(seal()))),
    fault("False in quarantine", "complete", "INCOMPLETE", evidence(seal=seal(quarantined=False))),
    fault("a manifest that is no count", "all_decoded", "NOT_ANALYSED", evidence(manifest_slices=20.0)),
    fault("a decoding that is no count", "all_decoded", "NOT_ANALYSED", evidence(decoded_slices=20.0)),
    fault("depths as a list", "all_decoded", "NOT_ANALYSED", evidence(analysis=analysis(depths=[20]))),
    fault("a negative depth", "all_decoded", "NOT_ANALYSED", evidence(analysis=analysis(depths=(25, -5)))),
    fault("one slice each in place of one volume short", "all_decoded", "INCOMPLETE", evidence(analysis=analysis(depths=(1,) * 21))),
    fault("a policy of True members", "members_complete", "UNCERTAINTY_INVALID", sampled(members=1, member_scores=()), held(members=True)),
    fault("a policy of True passes", "passes_complete", "UNCERTAINTY_INVALID", sampled(passes=1, budget=1), held(passes=True)),
    fault("no passes at all", "passes_complete", "UNCERTAINTY_INVALID", sampled(passes=0, budget=0), held(passes=0)),
    fault("uncertainty of another kind", "members_complete passes_complete finite certain score_certified", "UNCERTAINTY_INVALID UNCERTAIN", evidence(analysis=analysis(uncertainty=like(uncertainty())))),
    fault("novelty of another kind", "in_distribution", "NOVEL", evidence(analysis=analysis(novelty=like(novelty())))),
    fault("p-values as a list", "in_distribution", "NOVEL", looked(p_values=[("features", 0.5)])),
    fault("a detector without a name", "in_distribution", "NOVEL", looked(p_values=((None, 0.5),))),
    fault("a p-value above one", "in_distribution", "NOVEL", looked(combined=1.5)),
    fault("a negative novelty level", "in_distribution", "NOVEL", evidence(), held(novelty_level=-1.0)),
    fault("fired not listed", "in_distribution", "NOVEL", looked(fired=None)),
    fault("one class alone", "finite", "UNCERTAINTY_INVALID", sampled(classes=("tumour",), probabilities=(1.0,))),
    fault("probabilities as a list", "finite", "UNCERTAINTY_INVALID", sampled(probabilities=[0.9, 0.1])),
    fault("classes as a list", "finite", "UNCERTAINTY_INVALID", sampled(classes=["a", "b"])),
    fault("a probability below zero", "finite", "UNCERTAINTY_INVALID", sampled(probabilities=(1.1, -0.1))),
    fault("a digest of the samples that is no text", "finite", "UNCERTAINTY_INVALID", sampled(samples_digest=7)),
    fault("an analysis of another kind", "all_decoded members_complete passes_complete finite in_distribution certain score_certified", "NOT_ANALYSED UNCERTAINTY_INVALID NOVEL UNCERTAIN", evidence(analysis=like(analysis()))),
    fault("passes as True", "passes_complete", "UNCERTAINTY_INVALID", sampled(passes=True, budget=1), held(passes=1)),
    fault("an infinite limit of information", "certain", "UNCERTAIN", evidence(), held(mutual_information_limit=INF)),
]
# fmt: on


@pytest.mark.parametrize(("fallen", "reasons", "broken", "policy"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_one_broken_thing_defers_the_case_and_names_itself(
    fallen: set[str], reasons: tuple[Reason, ...], broken: Evidence, policy: Policy
) -> None:
    found = decide(broken, policy, TODAY)
    assert {name for name, answer in found.guards if answer is not True} == fallen
    assert found.route == Route.REVIEW
    assert found.reasons == reasons


def test_the_faults_break_every_guard_alone() -> None:
    alone = {next(iter(fallen)) for _, fallen, *_ in FAULTS if len(fallen) == 1}
    assert alone == set(ROUTINE_GUARDS)


@pytest.mark.parametrize("score", [0.1, 0.95])
@pytest.mark.parametrize("name", ROUTINE_GUARDS)
@pytest.mark.parametrize("answer", [False, None, 1, np.True_, "True"])
def test_a_guard_that_does_not_say_true_defers_a_confident_case(
    monkeypatch: pytest.MonkeyPatch, name: str, answer: Any, score: float
) -> None:
    monkeypatch.setattr(deferral, "GUARDS_BY_NAME", {**guards.GUARDS_BY_NAME, name: lambda *_: answer})
    found = decide(scored(score), POLICY, TODAY)
    assert found.route == Route.REVIEW
    assert dict(found.guards)[name] is False
    assert found.reasons


@pytest.mark.parametrize("name", ROUTINE_GUARDS)
def test_a_guard_that_raises_defers_the_case(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def broken(*_: Any) -> bool:
        raise RuntimeError("planted")

    monkeypatch.setattr(deferral, "GUARDS_BY_NAME", {**guards.GUARDS_BY_NAME, name: broken})
    assert decide(evidence(), POLICY, TODAY).route == Route.REVIEW


def test_a_guard_that_is_absent_defers_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = {name: guard for name, guard in guards.GUARDS_BY_NAME.items() if name != "complete"}
    monkeypatch.setattr(deferral, "GUARDS_BY_NAME", fewer)
    assert decide(evidence(), POLICY, TODAY).route == Route.REVIEW


def test_no_policy_is_not_analysed() -> None:
    found = decide(evidence(), None, TODAY)
    assert (found.route, found.reasons) == (Route.REVIEW, (Reason.NOT_ANALYSED,))


def test_no_analysis_is_not_analysed() -> None:
    found = decide(evidence(analysis=None, manifest_slices=None, decoded_slices=None), POLICY, TODAY)
    assert (found.route, found.reasons) == (Route.REVIEW, (Reason.NOT_ANALYSED,))


def test_no_analysis_because_of_a_known_problem_names_the_problem_alone() -> None:
    lost = evidence(analysis=None, problems=((Reason.IRREGULAR_GEOMETRY, "uneven spacing"),))
    found = decide(lost, POLICY, TODAY)
    assert found.reasons == (Reason.IRREGULAR_GEOMETRY,)
    assert found.details == ("uneven spacing",)


def test_an_unusable_release_names_its_problem() -> None:
    found = decide(evidence(analysis=None, problems=((Reason.RELEASE_INVALID, "the digest differs"),)), None, TODAY)
    assert found.reasons == (Reason.RELEASE_INVALID,)


def test_several_reasons_stand_once_each_in_the_order_of_the_guards() -> None:
    found = decide(
        evidence(
            seal=seal(completeness=Completeness.UNKNOWN, quarantined=2),
            problems=((Reason.UNREADABLE, "slice 3"), (Reason.UNREADABLE, "slice 4")),
            safe_state=True,
        ),
        POLICY,
        TODAY,
    )
    assert found.reasons == (Reason.STOPPED, Reason.INCOMPLETE, Reason.UNREADABLE)
    assert found.details == ("20 of 20 images without a gap", "slice 3", "slice 4")


def test_details_never_show_a_score() -> None:
    for *_, broken, policy in FAULTS:
        assert not any("0.1" in detail for detail in decide(broken, policy, TODAY).details)


@pytest.mark.parametrize("nothing", [None, "evidence", 3, object(), like(evidence())])
def test_what_is_no_evidence_is_not_analysed(nothing: Any) -> None:
    found = decide(nothing, POLICY, TODAY)
    assert (found.route, found.reasons) == (Route.REVIEW, (Reason.NOT_ANALYSED,))
    assert found.guards == tuple((name, False) for name in ROUTINE_GUARDS)


def test_a_policy_of_another_kind_is_not_analysed() -> None:
    found = decide(evidence(), like(POLICY), TODAY)
    assert (found.route, found.reasons) == (Route.REVIEW, (Reason.NOT_ANALYSED,))


@pytest.mark.parametrize("day", [None, "2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)])
def test_an_unknown_day_cannot_be_within_the_certificate(day: Any) -> None:
    assert decide(evidence(), POLICY, day).reasons == (Reason.CERTIFICATE_EXPIRED,)


@pytest.mark.parametrize(
    ("changed", "policy"),
    [
        (scored(0.2), POLICY),
        (evidence(), replace(POLICY, certificate_expires=TODAY)),
        (sampled(mutual_information=0.05), POLICY),
        (scored(0.0), replace(POLICY, routine_below=0.0)),
        (scored(0.1), replace(POLICY, routine_below=0.6, priority_above=0.4)),
        (scored(0.1), replace(POLICY, priority_above=None)),
        (sampled(member_scores=()), POLICY),
        (evidence(analysis=analysis(depths=(5, 5, 10))), POLICY),
        (scored(np.float64(0.1)), POLICY),
        (evidence(manifest_slices=1, decoded_slices=1, seal=seal(instances=1), analysis=analysis(depths=(1,))), POLICY),
        (looked(p_values=(("features", 0.8),)), POLICY),
    ],
    ids=[
        "a score on the threshold",
        "the last day of the certificate",
        "information on its limit",
        "a score of zero on a threshold of zero",
        "a low score outside the overlap",
        "the other side not certified",
        "member scores not kept",
        "several parts",
        "a NumPy number",
        "a study of one slice",
        "a single detector",
    ],
)
def test_what_the_certificate_covers_exactly_is_routine(changed: Evidence, policy: Policy) -> None:
    assert decide(changed, policy, TODAY).route == Route.ROUTINE


def test_a_score_on_the_upper_threshold_is_priority() -> None:
    assert decide(scored(0.9), POLICY, TODAY).route == Route.PRIORITY


def test_decide_swallows_no_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(deferral, "GUARDS_BY_NAME", {**guards.GUARDS_BY_NAME, "finite": interrupted})
    with pytest.raises(KeyboardInterrupt):
        decide(evidence(), POLICY, TODAY)


def test_guards_have_one_question_each() -> None:
    assert tuple(guards.GUARDS_BY_NAME) == ROUTINE_GUARDS
    assert len(set(guards.GUARDS_BY_NAME.values())) == len(ROUTINE_GUARDS)
