"""Decisions: the route of a case with all that is needed to compute it again, written once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from pipeline.domain.case import Route
from pipeline.domain.evidence import Decision, Evidence, Policy
from pipeline.domain.guards import is_share
from pipeline.store.json_values import evidence_json, plain, policy_from
from pipeline.store.sequences import new_id
from pipeline.store.tables import case, decision, outbox, protocol_text, routine_proof


@dataclass(frozen=True, kw_only=True)
class DecisionRecord:
    """One decision with everything it was computed from."""

    case_id: str
    decision: Decision
    evidence: Evidence
    policy: Policy | None
    protocol_digest: str
    manifest_digest: str
    fingerprint: Mapping[str, str]
    audit: bool
    fence: int
    decided_at: datetime


@dataclass(frozen=True, kw_only=True)
class StoredDecision:
    """A decision as it stands in the database, with what a replay needs; `evidence` is plain JSON."""

    case_id: str
    revision_id: str
    route: str
    reasons: tuple[str, ...]
    guards: tuple[tuple[str, bool], ...]
    evidence: Mapping[str, Any]
    policy: Policy | None
    release_digest: str | None
    protocol: Mapping[str, Any]
    fingerprint: Mapping[str, str]
    decided_at: datetime


def record_decision(connection: Connection, record: DecisionRecord) -> str:
    """Write proof, decision and outbox row and return the decision's id; the database refuses a second decision."""
    proof = _record_proof(connection, record) if record.decision.route == Route.ROUTINE else None
    decision_id = new_id()
    analysis = record.evidence.analysis
    score = None if analysis is None else analysis.uncertainty.route_score
    connection.execute(
        insert(decision).values(
            id=decision_id,
            case_id=record.case_id,
            route=str(record.decision.route),
            proof_case_id=proof,
            reasons=plain(record.decision.reasons),
            guards=plain(record.decision.guards),
            evidence=evidence_json(record.evidence),
            route_score=float(score) if is_share(score) else None,
            release_digest=record.evidence.release_digest,
            protocol_digest=record.protocol_digest,
            policy=None if record.policy is None else plain(record.policy),
            manifest_digest=record.manifest_digest,
            samples_digest=None if analysis is None else analysis.uncertainty.samples_digest,
            fingerprint=plain(record.fingerprint),
            audit=record.audit,
            fence=record.fence,
            decided_at=record.decided_at,
        )
    )
    _add_to_outbox(connection, decision_id, record)
    return decision_id


def _record_proof(connection: Connection, record: DecisionRecord) -> str:
    """The row without which no decision can be ROUTINE; the database refuses it unless every guard is true."""
    connection.execute(insert(routine_proof).values(case_id=record.case_id, **dict(record.decision.guards)))
    return record.case_id


def _add_to_outbox(connection: Connection, decision_id: str, record: DecisionRecord) -> None:
    payload = {"decision": decision_id, "case": record.case_id, "route": str(record.decision.route)}
    row = {"decision_id": decision_id, "kind": "result", "payload": payload, "created_at": record.decided_at}
    connection.execute(insert(outbox).values(id=new_id(), **row))


def stored_decision(connection: Connection, case_id: str) -> StoredDecision | None:
    """The decision of a case with the protocol's whole text, or None when it has none."""
    query = (
        select(decision, case.c.revision_id, protocol_text.c.content)
        .join(case, case.c.id == decision.c.case_id)
        .join(protocol_text, protocol_text.c.digest == decision.c.protocol_digest)
        .where(decision.c.case_id == case_id)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return StoredDecision(
        case_id=case_id,
        revision_id=row.revision_id,
        route=row.route,
        reasons=tuple(row.reasons),
        guards=tuple((name, value) for name, value in row.guards),
        evidence=row.evidence,
        policy=None if row.policy is None else policy_from(row.policy),
        release_digest=row.release_digest,
        protocol=row.content,
        fingerprint=row.fingerprint,
        decided_at=row.decided_at,
    )
