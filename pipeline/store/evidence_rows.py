"""Stored evidence read back: the newest decision of every study of a protocol, with the group it belongs to.

Nothing is guessed: evidence with a missing or unknown field is told apart as unreadable, and stays a clinician's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, func, select

from pipeline.domain.case import Reason
from pipeline.domain.evidence import (
    Analysis,
    Evidence,
    NoveltySummary,
    Policy,
    ScopeVerdict,
    UncertaintySummary,
)
from pipeline.store.json_values import policy_from, seal_from
from pipeline.store.tables import (
    case,
    decision,
    identity,
    instance,
    protocol_text,
    read,
    revision_instance,
    study,
    study_revision,
)

_UNCERTAINTY_TUPLES = ("classes", "probabilities", "member_scores")


@dataclass(frozen=True, kw_only=True)
class DecidedStudy:
    """One decided study; `evidence` is None where it cannot be read, `finding` what a committed read found.

    `protocol` is the protocol's whole text of then.
    """

    case_id: str
    route: str
    audit: bool
    evidence: Evidence | None
    policy: Policy | None
    decided_at: datetime
    protocol: Mapping[str, Any]
    scanner: str | None
    sex: str | None
    age_years: float | None
    finding: str | None


def decided_studies(connection: Connection, protocol: str) -> tuple[DecidedStudy, ...]:
    """The newest decision of every study put to `protocol`, in the order they were made."""
    newest = (
        select(case.c.study_id, func.max(study_revision.c.revision).label("revision"))
        .join(decision, decision.c.case_id == case.c.id)
        .join(study_revision, study_revision.c.id == case.c.revision_id)
        .where(case.c.protocol == protocol)
        .group_by(case.c.study_id)
        .subquery()
    )
    query = (
        select(decision, case.c.revision_id, protocol_text.c.content, identity.c.patient_sex)
        .join(case, case.c.id == decision.c.case_id)
        .join(study_revision, study_revision.c.id == case.c.revision_id)
        .join(newest, and_(newest.c.study_id == case.c.study_id, newest.c.revision == study_revision.c.revision))
        .join(study, study.c.id == case.c.study_id)
        .join(protocol_text, protocol_text.c.digest == decision.c.protocol_digest)
        .outerjoin(identity, identity.c.study_id == study.c.id)
        .where(case.c.protocol == protocol)
        .order_by(decision.c.decided_at, decision.c.id)
    )
    headers, findings = _headers(connection, protocol), _findings(connection, protocol)
    return tuple(
        _decided(row, headers.get(row.revision_id), findings.get(row.case_id)) for row in connection.execute(query)
    )


def evidence_from(content: Mapping[str, Any]) -> Evidence:
    """The evidence that `evidence_json` made this of; raises KeyError, TypeError or ValueError on anything else."""
    scope, seal, analysis = (content[name] for name in ("scope", "seal", "analysis"))
    read_back = {
        "scope": None if scope is None else ScopeVerdict(**{**scope, "reasons": _reasons(scope["reasons"])}),
        "seal": None if seal is None else seal_from(seal),
        "quality": _reasons(content["quality"]),
        "problems": tuple((Reason(reason), text) for reason, text in content["problems"]),
        "analysis": None if analysis is None else _analysis(analysis),
    }
    return Evidence(**{**content, **read_back})


def _analysis(content: Mapping[str, Any]) -> Analysis:
    uncertainty, novelty = dict(content["uncertainty"]), dict(content["novelty"])
    for name in ("budget", "stop"):
        if name not in uncertainty:
            raise KeyError(name)
    uncertainty |= {name: tuple(uncertainty[name]) for name in _UNCERTAINTY_TUPLES}
    novelty |= {"p_values": tuple((name, p) for name, p in novelty["p_values"]), "fired": tuple(novelty["fired"])}
    read_back = {
        "uncertainty": UncertaintySummary(**uncertainty),
        "novelty": NoveltySummary(**novelty),
        "depths": tuple(content["depths"]),
    }
    return Analysis(**{**content, **read_back})


def _reasons(values: Any) -> tuple[Reason, ...]:
    return tuple(Reason(value) for value in values)


def _headers(connection: Connection, protocol: str) -> dict[str, Mapping[str, Any]]:
    """One image header per revision."""
    query = (
        select(case.c.revision_id, instance.c.header)
        .join(revision_instance, revision_instance.c.revision_id == case.c.revision_id)
        .join(instance, instance.c.id == revision_instance.c.instance_id)
        .where(case.c.protocol == protocol, instance.c.is_image, instance.c.header.is_not(None))
        .order_by(instance.c.sequence.desc())
    )
    return {row.revision_id: row.header for row in connection.execute(query)}


def _findings(connection: Connection, protocol: str) -> dict[str, str]:
    """What the newest committed read of each case found."""
    query = (
        select(read.c.case_id, read.c.finding)
        .join(case, case.c.id == read.c.case_id)
        .where(case.c.protocol == protocol)
        .order_by(read.c.committed_at)
    )
    return {row.case_id: row.finding for row in connection.execute(query)}


def _decided(row: Any, header: Mapping[str, Any] | None, finding: str | None) -> DecidedStudy:
    known = header or {}
    made = " ".join(str(known[name]) for name in ("manufacturer", "manufacturer_model_name") if known.get(name))
    age = known.get("patient_age_years")
    return DecidedStudy(
        case_id=row.case_id,
        route=row.route,
        audit=row.audit,
        evidence=_readable(row.evidence),
        policy=None if row.policy is None else policy_from(row.policy),
        decided_at=row.decided_at,
        protocol=row.content,
        scanner=made or None,
        sex=row.patient_sex,
        age_years=float(age) if isinstance(age, int | float) else None,
        finding=finding,
    )


def _readable(content: Mapping[str, Any]) -> Evidence | None:
    try:
        return evidence_from(content)
    except (KeyError, TypeError, ValueError):
        return None
