"""What if: another policy over the evidence that is stored, with the very function that decides, changing nothing.

Only thresholds and limits can be asked about; another model must look at the images again. A threshold that no certificate
covers is told so: choosing it for what it would have done voids every promise about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.domain.case import Route
from pipeline.domain.certificate import Certificate
from pipeline.domain.deferral import decide
from pipeline.domain.evidence import Policy
from pipeline.domain.reads import reads_per_day
from pipeline.domain.strata import age_band
from pipeline.errors import HaltPipeline
from pipeline.protocol import TriageProtocol
from pipeline.store import evidence_rows
from pipeline.store.database import Database
from pipeline.store.evidence_rows import DecidedStudy

UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Change:
    """What of the policy is asked about; None leaves it as it was for each study."""

    routine_below: float | None = None
    priority_above: float | None = None
    mutual_information_limit: float | None = None
    novelty_level: float | None = None

    def applied_to(self, policy: Policy) -> Policy:
        """The policy with the change made."""
        return replace(policy, **{name: value for name, value in asdict(self).items() if value is not None})


def what_if(
    database: Database,
    protocol: TriageProtocol,
    change: Change,
    *,
    certificates: Mapping[str, Certificate] | None = None,
    policy: Policy | None = None,
    studies_per_day: int | None = None,
) -> dict[str, Any]:
    """Flips, reads a day before and after, coverage by `certificates` and groups; JSON-able.

    With the `policy` of a release, studies that another release judged stay as they were and are counted: they would have
    to be analysed again. Raises HaltPipeline when nothing was decided.
    """
    release_digest = None if policy is None else policy.release_digest
    with database.read() as connection:
        studies = evidence_rows.decided_studies(connection, protocol.name)
    if not studies:
        raise HaltPipeline(f"no study was decided by {protocol.name} yet; triage some with `secondread triage`")
    moved = [(one, _route(one, change, release_digest)) for one in studies]
    alike = sum(_route(one, Change(), None) == one.route for one in studies)
    return {
        "protocol": protocol.name,
        "studies": len(studies),
        "recomputed_alike": alike,
        "other_release": sum(_is_of_another(one, release_digest) for one in studies),
        "unreadable": sum(one.evidence is None for one in studies),
        "change": {name: value for name, value in asdict(change).items() if value is not None},
        "flips": _flips(moved),
        "certified": None if certificates is None or policy is None else covered(change, certificates, policy),
        "findings_to_routine": _findings_to_routine(moved, protocol),
        "reads": {} if studies_per_day is None else _reads(moved, protocol, studies_per_day),
        "groups": _groups(moved),
    }


def covered(change: Change, certificates: Mapping[str, Certificate], policy: Policy) -> dict[str, bool]:
    """Per side whether the certificates of the release still vouch for the changed policy.

    Letting more studies past a gate is a scorer that was never certified; stopping more of them only lowers both rates.
    """
    changed = change.applied_to(policy)
    widened = (
        changed.mutual_information_limit > policy.mutual_information_limit
        or changed.novelty_level < policy.novelty_level
    )
    asked = {"routine": change.routine_below, "priority": change.priority_above}
    return {
        side: certificate.certifies(certificate.threshold if asked[side] is None else asked[side]) and not widened
        for side, certificate in certificates.items()
    }


def _is_of_another(one: DecidedStudy, release_digest: str | None) -> bool:
    return release_digest is not None and one.policy is not None and one.policy.release_digest != release_digest


def _route(one: DecidedStudy, change: Change, release_digest: str | None) -> str:
    """The route under the change; what cannot be read or belongs to another release does not move but to REVIEW."""
    if _is_of_another(one, release_digest):
        return one.route
    if one.evidence is None:
        return Route.REVIEW.value
    policy = None if one.policy is None else change.applied_to(one.policy)
    return str(decide(one.evidence, policy, one.decided_at.date()).route)


def _flips(moved: Sequence[tuple[DecidedStudy, str]]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], list[str]] = {}
    for one, route in moved:
        if route != one.route:
            found.setdefault((one.route, route), []).append(one.case_id)
    return [{"from": a, "to": b, "n": len(cases), "cases": cases} for (a, b), cases in sorted(found.items())]


def _findings_to_routine(moved: Sequence[tuple[DecidedStudy, str]], protocol: TriageProtocol) -> dict[str, int]:
    """Of the studies that a committed read found the finding in, how many are in ROUTINE, before and after."""
    findings = {one.name for one in protocol.classes if one.finding}
    seen = [(one.route, route) for one, route in moved if one.finding in findings]
    return {
        "read_with_finding": len(seen),
        "before": sum(before == Route.ROUTINE for before, _ in seen),
        "after": sum(after == Route.ROUTINE for _, after in seen),
    }


def _reads(
    moved: Sequence[tuple[DecidedStudy, str]], protocol: TriageProtocol, studies_per_day: int
) -> dict[str, list[dict[str, Any]]]:
    specialties = {route.value: protocol.routes[route].specialty for route in Route}
    columns = {"before": [one.route for one, _ in moved], "after": [route for _, route in moved]}
    return {
        name: [
            asdict(load)
            for load in reads_per_day(
                {route.value: routes.count(route.value) / len(routes) for route in Route},
                studies_per_day=studies_per_day,
                specialties=specialties,
                audit_share=protocol.limits.audit_share,
            )
        ]
        for name, routes in columns.items()
    }


def _groups(moved: Sequence[tuple[DecidedStudy, str]]) -> list[dict[str, Any]]:
    rows = []
    for column, of in (
        ("scanner", lambda one: one.scanner),
        ("sex", lambda one: one.sex),
        ("age_band", lambda one: age_band(one.age_years)),
    ):
        names = [of(one) or UNKNOWN for one, _ in moved]
        for name in sorted(set(names)):
            inside = [pair for pair, own in zip(moved, names, strict=True) if own == name]
            rows.append({"column": column, "value": name, "n": len(inside)} | _before_and_after(inside))
    return rows


def _before_and_after(moved: Sequence[tuple[DecidedStudy, str]]) -> dict[str, Any]:
    return {
        "before": dict(sorted(Counter(one.route for one, _ in moved).items())),
        "after": dict(sorted(Counter(route for _, route in moved).items())),
        "flips": sum(one.route != route for one, route in moved),
    }
