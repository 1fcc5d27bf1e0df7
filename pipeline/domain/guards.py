"""The guards of the decision: each asks one question of the evidence and answers True only on positive proof.

Why types are checked here although they are annotated: evidence is assembled from files, databases and libraries, and a
guard that trusts an annotation would let a wrong object through. A missing value never satisfies a guard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import date, datetime
from types import MappingProxyType
from typing import TypeGuard

from pipeline.domain.case import Route
from pipeline.domain.evidence import Analysis, Evidence, NoveltySummary, Policy, ScopeVerdict, UncertaintySummary
from pipeline.domain.stopping import FEWEST_ROUNDS, Stop
from pipeline.domain.study import Completeness, SealEvidence

Guard = Callable[[Evidence, Policy | None, date], bool]

SUM_TOLERANCE = 1e-6  # of probabilities that must sum to one
ENTROPY_TOLERANCE = 1e-9  # nats


def is_finite(value: object) -> TypeGuard[float]:
    """Whether `value` is a finite real number (bool is not a number here)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_share(value: object) -> TypeGuard[float]:
    """Whether `value` is a finite number in [0, 1]."""
    return is_finite(value) and 0.0 <= value <= 1.0


def is_certain(mutual_information: float, limit: float) -> bool:
    """Whether the corrected mutual information (nats) is at most the release's limit; NaN is not."""
    return bool(mutual_information <= limit)


def is_familiar(combined_p: float, level: float) -> bool:
    """Whether the combined novelty p-value is above the release's level; NaN is not, equality is novel."""
    return bool(combined_p > level)


def certified_side(score: object, policy: Policy) -> Route | None:
    """ROUTINE or PRIORITY when exactly one certified threshold holds for `score`, else None.

    A score on a threshold is on its side (the certificate is about s <= t); a score on both sides, where the two
    certified ranges overlap, is on neither.
    """
    if not is_share(score):
        return None
    routine = is_share(policy.routine_below) and bool(score <= policy.routine_below)
    priority = is_share(policy.priority_above) and bool(score >= policy.priority_above)
    if routine == priority:
        return None
    return Route.ROUTINE if routine else Route.PRIORITY


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_digest(value: object) -> TypeGuard[str]:
    return type(value) is str and value != ""  # a Reason is text too, and no digest


def _is_empty_tuple(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 0


def _is_day(value: object) -> TypeGuard[date]:
    return isinstance(value, date) and not isinstance(value, datetime)


def _uncertainty(evidence: Evidence) -> UncertaintySummary | None:
    if not isinstance(evidence.analysis, Analysis):
        return None
    found = evidence.analysis.uncertainty
    return found if isinstance(found, UncertaintySummary) else None


def _novelty(evidence: Evidence) -> NoveltySummary | None:
    if not isinstance(evidence.analysis, Analysis):
        return None
    found = evidence.analysis.novelty
    return found if isinstance(found, NoveltySummary) else None


def _safe_state_off(evidence: Evidence, _policy: Policy | None, _today: date) -> bool:
    return evidence.safe_state is False


def _release_matches(evidence: Evidence, policy: Policy | None, _today: date) -> bool:
    return (
        policy is not None
        and _is_digest(evidence.release_digest)
        and _is_digest(evidence.protocol_digest)
        and evidence.release_digest == policy.release_digest
        and evidence.protocol_digest == policy.protocol_digest
    )


def thresholds_usable(policy: Policy) -> bool:
    """Whether at least one side is certified and no threshold is anything but None or a number in [0, 1]."""
    thresholds = (policy.routine_below, policy.priority_above)
    return any(t is not None for t in thresholds) and all(t is None or is_share(t) for t in thresholds)


def _certificate_valid(_evidence: Evidence, policy: Policy | None, today: date) -> bool:
    return (
        policy is not None
        and thresholds_usable(policy)
        and _is_day(today)
        and _is_day(policy.certificate_expires)
        and today <= policy.certificate_expires
    )


def _in_scope(evidence: Evidence, _policy: Policy | None, _today: date) -> bool:
    scope = evidence.scope
    return isinstance(scope, ScopeVerdict) and scope.in_scope is True and _is_empty_tuple(scope.reasons)


def _complete(evidence: Evidence, _policy: Policy | None, _today: date) -> bool:
    seal = evidence.seal
    return (
        isinstance(seal, SealEvidence)
        and seal.completeness is Completeness.PROVEN
        and type(seal.quarantined) is int
        and seal.quarantined == 0
        and _is_count(seal.instances)
        and _is_empty_tuple(seal.problems)
    )


def _no_problems(evidence: Evidence, _policy: Policy | None, _today: date) -> bool:
    return _is_empty_tuple(evidence.problems)


def _all_decoded(evidence: Evidence, _policy: Policy | None, _today: date) -> bool:
    manifest, decoded, analysis = evidence.manifest_slices, evidence.decoded_slices, evidence.analysis
    return (
        _is_count(manifest)
        and _is_count(decoded)
        and isinstance(analysis, Analysis)
        and isinstance(analysis.depths, tuple)
        and all(_is_count(depth) for depth in analysis.depths)
        and manifest == decoded == sum(analysis.depths)
    )


def _quality_ok(evidence: Evidence, _policy: Policy | None, _today: date) -> bool:
    return _is_empty_tuple(evidence.quality)


def _members_complete(evidence: Evidence, policy: Policy | None, _today: date) -> bool:
    found = _uncertainty(evidence)
    return (
        found is not None
        and policy is not None
        and _is_count(found.members)
        and _is_count(policy.members)
        and found.members == policy.members
        and len(found.member_scores) in (0, found.members)
    )


def _passes_complete(evidence: Evidence, policy: Policy | None, _today: date) -> bool:
    found = _uncertainty(evidence)
    return (
        found is not None
        and policy is not None
        and _is_count(found.passes)
        and _is_count(found.budget)
        and _is_count(policy.passes)
        and _as_sampled(found, policy)
    )


def _as_sampled(found: UncertaintySummary, policy: Policy) -> bool:
    """Whether the passes made and the reason to stop are what the release's way of sampling allows."""
    if policy.sampling == "off":
        return found.stop == Stop.OFF and found.passes == found.budget == 1
    whole = found.stop == Stop.BUDGET and found.passes == found.budget == policy.passes
    if policy.sampling in {"fixed", "moments"}:
        return whole
    settled = found.stop == Stop.SETTLED and FEWEST_ROUNDS <= found.passes < found.budget == policy.passes
    return policy.sampling == "adaptive" and (whole or settled)


def _are_probabilities(values: object, classes: object) -> bool:
    return (
        isinstance(values, tuple)
        and isinstance(classes, tuple)
        and len(values) == len(classes) >= 2
        and all(is_share(p) for p in values)
        and abs(math.fsum(values) - 1.0) <= SUM_TOLERANCE
    )


def _finite(evidence: Evidence, _policy: Policy | None, _today: date) -> bool:
    found = _uncertainty(evidence)
    if found is None or not _are_probabilities(found.probabilities, found.classes):
        return False
    most = math.log(len(found.classes)) + ENTROPY_TOLERANCE
    entropies = (found.predictive_entropy, found.expected_entropy)
    return (
        is_share(found.route_score)
        and all(is_finite(h) and -ENTROPY_TOLERANCE <= h <= most for h in entropies)
        and all(is_finite(mi) for mi in (found.mi_dropout, found.mi_member))
        and is_finite(found.mutual_information)
        and found.mutual_information >= -ENTROPY_TOLERANCE
        and all(is_share(score) for score in found.member_scores)
        and _is_digest(found.samples_digest)
    )


def _in_distribution(evidence: Evidence, policy: Policy | None, _today: date) -> bool:
    found = _novelty(evidence)
    return (
        found is not None
        and policy is not None
        and isinstance(found.p_values, tuple)
        and len(found.p_values) >= 1
        and all(isinstance(name, str) and is_share(p) for name, p in found.p_values)
        and is_share(found.combined)
        and is_share(policy.novelty_level)
        and _is_empty_tuple(found.fired)
        and is_familiar(found.combined, policy.novelty_level)
    )


def _certain(evidence: Evidence, policy: Policy | None, _today: date) -> bool:
    found = _uncertainty(evidence)
    return (
        found is not None
        and policy is not None
        and is_finite(found.mutual_information)
        and is_finite(policy.mutual_information_limit)
        and is_certain(found.mutual_information, policy.mutual_information_limit)
    )


def _score_certified(evidence: Evidence, policy: Policy | None, _today: date) -> bool:
    found = _uncertainty(evidence)
    return found is not None and policy is not None and certified_side(found.route_score, policy) is not None


GUARDS_BY_NAME: Mapping[str, Guard] = MappingProxyType(
    {
        "safe_state_off": _safe_state_off,
        "release_matches": _release_matches,
        "certificate_valid": _certificate_valid,
        "in_scope": _in_scope,
        "complete": _complete,
        "no_problems": _no_problems,
        "all_decoded": _all_decoded,
        "quality_ok": _quality_ok,
        "members_complete": _members_complete,
        "passes_complete": _passes_complete,
        "finite": _finite,
        "in_distribution": _in_distribution,
        "certain": _certain,
        "score_certified": _score_certified,
    }
)
