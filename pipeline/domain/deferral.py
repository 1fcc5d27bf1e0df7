"""The decision about one case: a positive proof for the model to speak, and deferral to a clinician otherwise.

ROUTINE and PRIORITY need every guard to answer literally True; OUT_OF_SCOPE needs a stated verdict about everything that
arrived. Whatever is missing, undefined, contradictory or raised is REVIEW, with the reason that matches.
"""

from __future__ import annotations

from datetime import date

from pipeline.domain.case import OUT_OF_SCOPE_REASONS, Reason, Route
from pipeline.domain.evidence import Analysis, Decision, Evidence, Policy, ScopeVerdict
from pipeline.domain.guards import GUARDS_BY_NAME, certified_side, thresholds_usable
from pipeline.domain.study import Completeness, SealEvidence

ROUTINE_GUARDS = (
    "safe_state_off",
    "release_matches",
    "certificate_valid",
    "in_scope",
    "complete",
    "no_problems",
    "all_decoded",
    "quality_ok",
    "members_complete",
    "passes_complete",
    "finite",
    "in_distribution",
    "certain",
    "score_certified",
)

_POLICY_GUARDS = frozenset({"release_matches", "certificate_valid"})
_ANALYSIS_GUARDS = frozenset(
    {"all_decoded", "members_complete", "passes_complete", "finite", "in_distribution", "certain", "score_certified"}
)
_FIXED_REASON = {
    "safe_state_off": Reason.STOPPED,
    "release_matches": Reason.RELEASE_INVALID,
    "members_complete": Reason.UNCERTAINTY_INVALID,
    "passes_complete": Reason.UNCERTAINTY_INVALID,
    "finite": Reason.UNCERTAINTY_INVALID,
    "in_distribution": Reason.NOVEL,
    "certain": Reason.UNCERTAIN,
}
_ROUTE_REASON = {Route.ROUTINE: Reason.CONFIDENT_ABSENCE, Route.PRIORITY: Reason.CONFIDENT_FINDING}


def decide(evidence: Evidence, policy: Policy | None, today: date) -> Decision:
    """The route of one case, its reasons and the truth of every guard; never raises.

    `today` is the reading site's day; the certificate holds up to and including its last day.
    """
    try:
        return _decide(evidence, policy, today)
    except Exception as error:  # noqa: BLE001 - whatever went wrong, a clinician reads the case
        guards = tuple((name, False) for name in ROUTINE_GUARDS)
        detail = f"the decision could not be made ({type(error).__name__})"
        return Decision(route=Route.REVIEW, reasons=(Reason.NOT_ANALYSED,), guards=guards, details=(detail,))


def _decide(evidence: Evidence, policy: Policy | None, today: date) -> Decision:
    if not isinstance(evidence, Evidence) or not (policy is None or isinstance(policy, Policy)):
        raise TypeError("decide takes Evidence and a Policy or None")
    guards = tuple((name, _ask(name, evidence, policy, today)) for name in ROUTINE_GUARDS)
    if policy is not None and evidence.analysis is not None and all(answer is True for _, answer in guards):
        side = certified_side(evidence.analysis.uncertainty.route_score, policy)
        if side is not None:
            return Decision(route=side, reasons=(_ROUTE_REASON[side],), guards=guards)
    foreign = _out_of_scope(evidence)
    if foreign is not None:
        return Decision(route=Route.OUT_OF_SCOPE, reasons=foreign, guards=guards, details=_details(evidence))
    reasons = _reasons([name for name, answer in guards if answer is not True], evidence, policy)
    return Decision(route=Route.REVIEW, reasons=reasons, guards=guards, details=_details(evidence))


def _ask(name: str, evidence: Evidence, policy: Policy | None, today: date) -> bool:
    try:
        return GUARDS_BY_NAME[name](evidence, policy, today) is True
    except Exception:  # noqa: BLE001 - a guard that cannot be asked is not satisfied
        return False


def _out_of_scope(evidence: Evidence) -> tuple[Reason, ...] | None:
    """The reasons why the protocol does not apply, or None where that is not proven.

    Quarantined images could be the ones the protocol is for, so that with them nothing is known about the scope.
    """
    scope, seal = evidence.scope, evidence.seal
    if evidence.safe_state is not False or not isinstance(scope, ScopeVerdict) or scope.in_scope is not False:
        return None
    if not isinstance(seal, SealEvidence) or type(seal.quarantined) is not int or seal.quarantined != 0:
        return None
    reasons = tuple(scope.reasons)
    proven = len(reasons) > 0 and all(isinstance(r, Reason) and r in OUT_OF_SCOPE_REASONS for r in reasons)
    return reasons if proven else None


def _reasons(failed: list[str], evidence: Evidence, policy: Policy | None) -> tuple[Reason, ...]:
    """Why the failed guards failed, in their order and once each; NOT_ANALYSED when nothing says more."""
    found: dict[Reason, None] = {}
    for name in failed:
        try:
            found.update(dict.fromkeys(_objections(name, evidence, policy)))
        except Exception:  # noqa: BLE001 - an objection that cannot be put into words is still one
            found[Reason.NOT_ANALYSED] = None
    return tuple(found) or (Reason.NOT_ANALYSED,)


def _objections(name: str, evidence: Evidence, policy: Policy | None) -> tuple[Reason, ...]:
    if policy is None and name in _POLICY_GUARDS:
        return ()
    if (evidence.analysis is None or policy is None) and name in _ANALYSIS_GUARDS:
        return _undecoded(evidence) if name == "all_decoded" else ()
    if name in _FIXED_REASON:
        return (_FIXED_REASON[name],)
    if name in {"certificate_valid", "score_certified"} and policy is not None:
        return (_certificate_objection(name, policy),)
    return _evidence_objections(name, evidence)


def _certificate_objection(name: str, policy: Policy) -> Reason:
    if not thresholds_usable(policy):
        return Reason.NOT_CERTIFIED
    if name == "certificate_valid":
        return Reason.CERTIFICATE_EXPIRED
    one_sided = policy.routine_below is None or policy.priority_above is None
    return Reason.NOT_CERTIFIED if one_sided else Reason.UNCERTAIN


def _evidence_objections(name: str, evidence: Evidence) -> tuple[Reason, ...]:
    if name == "in_scope":
        return _scope_objections(evidence.scope)
    if name == "complete":
        return _seal_objections(evidence.seal)
    if name == "no_problems":
        return tuple(_reason(problem[0]) for problem in evidence.problems) or (Reason.NOT_ANALYSED,)
    if name == "quality_ok":
        return tuple(_reason(finding) for finding in evidence.quality) or (Reason.LOW_QUALITY,)
    return _undecoded(evidence) or (Reason.NOT_ANALYSED,)


def _scope_objections(scope: ScopeVerdict | None) -> tuple[Reason, ...]:
    stated = scope.reasons if isinstance(scope, ScopeVerdict) and scope.in_scope is False else ()
    return tuple(_reason(reason) for reason in stated) or (Reason.SCOPE_UNKNOWN,)


def _seal_objections(seal: SealEvidence | None) -> tuple[Reason, ...]:
    if not isinstance(seal, SealEvidence):
        return (Reason.INCOMPLETE,)
    found = [_reason(problem) for problem in seal.problems]
    if seal.completeness is not Completeness.PROVEN:
        found.append(Reason.INCOMPLETE)
    if seal.quarantined != 0:
        found.append(Reason.UNREADABLE)
    return tuple(found) or (Reason.INCOMPLETE,)


def _undecoded(evidence: Evidence) -> tuple[Reason, ...]:
    manifest, decoded = evidence.manifest_slices, evidence.decoded_slices
    if manifest is None or decoded is None:
        return ()
    if decoded == 0:
        return (Reason.UNREADABLE,)
    analysed = sum(evidence.analysis.depths) if isinstance(evidence.analysis, Analysis) else decoded
    return () if manifest == decoded == analysed else (Reason.INCOMPLETE,)


def _reason(value: object) -> Reason:
    try:
        return Reason(str(value))
    except ValueError:
        return Reason.NOT_ANALYSED


def _details(evidence: Evidence) -> tuple[str, ...]:
    """Sentences for the reader; never a score, which stays hidden until the read is committed."""
    found: list[str] = []
    if isinstance(evidence.scope, ScopeVerdict) and evidence.scope.in_scope is not True:
        found.append(evidence.scope.detail)
    if isinstance(evidence.seal, SealEvidence) and evidence.seal.completeness is not Completeness.PROVEN:
        found.append(evidence.seal.detail)
    if isinstance(evidence.problems, tuple):
        found.extend(problem[1] for problem in evidence.problems if isinstance(problem, tuple) and len(problem) == 2)
    return tuple(dict.fromkeys(text for text in found if isinstance(text, str) and text))
