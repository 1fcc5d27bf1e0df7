from __future__ import annotations

import math
import sys
from dataclasses import fields, replace
from datetime import date
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain.case import Reason, Route
from pipeline.domain.deferral import ROUTINE_GUARDS, decide
from pipeline.domain.evidence import Analysis, Evidence, NoveltySummary, Policy, ScopeVerdict, UncertaintySummary
from pipeline.domain.study import Completeness, SealEvidence

TODAY = date(2026, 3, 1)
NAN, INF = math.nan, math.inf
LARGEST = sys.float_info.max

POLICY = Policy(
    release_digest="release",
    protocol_digest="protocol",
    members=2,
    passes=5,
    routine_below=0.2,
    priority_above=0.9,
    mutual_information_limit=0.05,
    novelty_level=0.02,
    certificate_expires=date(2026, 12, 31),
    sampling="fixed",
)
SOUND = Evidence(
    scope=ScopeVerdict(in_scope=True),
    seal=SealEvidence(
        completeness=Completeness.PROVEN, kind="gap_check", detail="no gap", instances=20, series=1, quarantined=0
    ),
    manifest_slices=20,
    decoded_slices=20,
    analysis=Analysis(
        uncertainty=UncertaintySummary(
            classes=("no_tumour", "tumour"),
            probabilities=(0.9, 0.1),
            route_score=0.1,
            predictive_entropy=0.33,
            expected_entropy=0.31,
            mi_dropout=0.01,
            mi_member=0.01,
            mutual_information=0.021,
            members=2,
            passes=5,
            budget=5,
            stop="budget",
            samples_digest="samples",
            member_scores=(0.1, 0.1),
        ),
        novelty=NoveltySummary(p_values=(("histogram", 0.4), ("features", 0.6)), combined=0.8),
        depths=(20,),
    ),
    release_digest="release",
    protocol_digest="protocol",
    safe_state=False,
)


def number(x: Any) -> bool:
    return type(x) in {int, float, np.float64} and -LARGEST <= x <= LARGEST


def unit(x: Any) -> bool:
    return number(x) and 0 <= x <= 1


def whole(x: Any) -> bool:
    return type(x) is int and x > 0


def may_speak(e: Evidence, p: Policy | None, today: Any) -> bool:
    """Whether the model may speak, restated as one conjunction; anything that cannot be evaluated is no."""
    try:
        a, s = e.analysis, e.seal
        assert p is not None
        assert a is not None
        assert s is not None
        assert e.scope is not None
        u, n = a.uncertainty, a.novelty
        return (
            e.safe_state is False
            and bool(e.release_digest) and type(e.release_digest) is str and e.release_digest == p.release_digest
            and bool(e.protocol_digest) and type(e.protocol_digest) is str and e.protocol_digest == p.protocol_digest
            and all(t is None or unit(t) for t in (p.routine_below, p.priority_above))
            and type(today) is date and type(p.certificate_expires) is date and p.certificate_expires >= today
            and e.scope.in_scope is True and e.scope.reasons == ()
            and s.completeness is Completeness.PROVEN and type(s.quarantined) is int and s.quarantined == 0
            and s.problems == () and whole(s.instances)
            and e.problems == () and e.quality == ()
            and whole(e.manifest_slices) and whole(e.decoded_slices) and type(a.depths) is tuple
            and all(whole(d) for d in a.depths) and sum(a.depths) == e.decoded_slices == e.manifest_slices
            and whole(u.members) and u.members == p.members and len(u.member_scores) in {0, p.members}
            and whole(u.passes) and u.passes == p.passes == u.budget and u.stop == "budget" and p.sampling == "fixed"
            and type(u.probabilities) is type(u.classes) is tuple and len(u.probabilities) == len(u.classes) > 1
            and all(unit(x) for x in (*u.probabilities, *u.member_scores, u.route_score))
            and abs(sum(u.probabilities) - 1) < 1.1e-6
            and all(number(x) for x in (u.mi_dropout, u.mi_member, u.mutual_information))
            and all(number(x) and -1e-8 < x < math.log(len(u.classes)) + 1e-8
                    for x in (u.predictive_entropy, u.expected_entropy))
            and type(u.samples_digest) is str and len(u.samples_digest) > 0
            and type(n.p_values) is tuple and len(n.p_values) > 0 and all(unit(x) for _, x in n.p_values)
            and unit(n.combined) and unit(p.novelty_level) and n.fired == () and n.combined > p.novelty_level
            and number(p.mutual_information_limit) and -1e-8 < u.mutual_information <= p.mutual_information_limit
        )  # fmt: skip
    except (TypeError, ValueError, AttributeError, AssertionError):
        return False


def expected_side(e: Evidence, p: Policy) -> Route | None:
    assert e.analysis is not None
    score = e.analysis.uncertainty.route_score
    low = p.routine_below is not None and score <= p.routine_below
    high = p.priority_above is not None and score >= p.priority_above
    return None if low == high else (Route.ROUTINE if low else Route.PRIORITY)


JUNK = st.sampled_from(
    [
        *(None, NAN, INF, -INF, -1, 0, 1, 0.5, 1e308, -0.0, True, False, "", "0.1", b"x", (), (NAN,), [], {}, object()),
        *(np.nan, np.float64(0.1), np.array([0.1, 0.2]), np.True_, 10**400, Reason.NOVEL, Completeness.UNKNOWN),
    ]
)
PARTS = {
    "evidence": SOUND,
    "scope": SOUND.scope,
    "seal": SOUND.seal,
    "analysis": SOUND.analysis,
    "uncertainty": SOUND.analysis.uncertainty,
    "novelty": SOUND.analysis.novelty,
    "policy": POLICY,
}
SPOTS = st.sampled_from([(part, field.name) for part, value in PARTS.items() for field in fields(value)])
SCORES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.2, 0.9, 1.0]))


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(damage=st.dictionaries(SPOTS, JUNK, max_size=4), score=SCORES)
def test_no_damage_lets_the_model_speak_unless_every_condition_still_holds(
    damage: dict[tuple[str, str], Any], score: float
) -> None:
    def damaged(part: str) -> dict[str, Any]:
        return {name: value for (where, name), value in damage.items() if where == part}

    def damage_to(part: str) -> Any:
        return replace(PARTS[part], **damaged(part))

    u = replace(PARTS["uncertainty"], **{"route_score": score, **damaged("uncertainty")})
    a = replace(PARTS["analysis"], **{"uncertainty": u, "novelty": damage_to("novelty"), **damaged("analysis")})
    parts = {"scope": damage_to("scope"), "seal": damage_to("seal"), "analysis": a}
    case = replace(SOUND, **{**parts, **damaged("evidence")})
    held = damage_to("policy")
    found = decide(case, held, TODAY)
    assert len(found.guards) == len(ROUTINE_GUARDS)
    speaks = may_speak(case, held, TODAY)
    if found.route in (Route.ROUTINE, Route.PRIORITY):
        assert speaks
        assert found.route == expected_side(case, held)
        assert all(answer is True for _, answer in found.guards)
    else:
        assert not speaks or expected_side(case, held) is None
        assert found.route == Route.REVIEW or case.scope.in_scope is False
        assert found.reasons


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    rubbish=st.fixed_dictionaries(dict.fromkeys((field.name for field in fields(SOUND)), JUNK)),
    today=st.one_of(st.just(TODAY), JUNK),
)
def test_evidence_made_of_rubbish_is_reviewed(rubbish: dict[str, Any], today: Any) -> None:
    found = decide(Evidence(**rubbish), POLICY, today)
    assert found.route == Route.REVIEW
    assert found.reasons
