"""Writing what was decided: the case, its decision with proof and outbox row, the worklist item and the audit event.

All of it or nothing, for one case or for several at once. A safe state that began since a decision was made still counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from pipeline.domain.audit_sampling import drawn_for_audit
from pipeline.domain.case import Reason, Route
from pipeline.domain.deferral import decide
from pipeline.domain.evidence import Decision
from pipeline.protocol import TriageProtocol
from pipeline.store import audit_rows, case_rows, decision_rows, safe_state_rows, worklist_rows
from pipeline.store.case_rows import ClaimedCase, LostClaim
from pipeline.store.database import Database, Transaction, canonical_json
from pipeline.store.decision_rows import DecisionRecord
from pipeline.store.json_values import evidence_json, plain
from pipeline.store.refusals import ConstraintRefused

ACTOR = "triage"
_ITEM_PRIORITY = {Route.PRIORITY: 2, Route.REVIEW: 1}
_AUDIT_REASONS = (Reason.UNCERTAIN,)  # an audit read must look like any other to its reader


@dataclass(frozen=True, kw_only=True)
class ReadyRecord:
    """A decision that is made and not yet written, with the claim it was made under."""

    claimed: ClaimedCase
    record: DecisionRecord


def write_decisions(
    database: Database, protocol: TriageProtocol, ready: Sequence[ReadyRecord], *, audit_key: bytes
) -> list[Decision] | None:
    """Write several decisions in one transaction; None, and nothing written, where one of them cannot be.

    Then each is written by itself with `write_decision`, which tells one's trouble from another's. Raises RetryLater.
    """
    records = [_drawn(protocol, one, audit_key) for one in ready]
    try:
        written = _written(database, protocol, [one.claimed for one in ready], records)
    except (ConstraintRefused, LostClaim):
        return None
    return [record.decision for record in written]


def write_decision(database: Database, protocol: TriageProtocol, ready: ReadyRecord, *, audit_key: bytes) -> Decision:
    """Write one decision; one that the database refuses becomes a REVIEW. Raises RetryLater, LostClaim."""
    claimed = ready.claimed
    record = _drawn(protocol, ready, audit_key)
    try:
        (written,) = _written(database, protocol, [claimed], [record])
    except ConstraintRefused:
        if record.decision.route == Route.REVIEW:
            raise
        record = replace(record, decision=_refused(record.decision), audit=False)
        (written,) = _written(database, protocol, [claimed], [record])
    return written.decision


def _written(
    database: Database, protocol: TriageProtocol, claimed: Sequence[ClaimedCase], records: Sequence[DecisionRecord]
) -> Sequence[DecisionRecord]:
    """Write them all or nothing: every case is locked before the audit trail, as a seal does it, so that none deadlocks."""
    with database.transaction() as connection:
        safe_state_rows.share(connection)
        if safe_state_rows.is_safe(connection):
            records = [_stopped(record) for record in records]
        for one, record in zip(claimed, records, strict=True):
            case_rows.finish(connection, case_id=one.case_id, owner=one.owner, fence=one.fence, now=record.decided_at)
        for one, record in zip(claimed, records, strict=True):
            _record(connection, one, protocol, record)
    return records


def _drawn(protocol: TriageProtocol, ready: ReadyRecord, audit_key: bytes) -> DecisionRecord:
    drawn = drawn_for_audit(audit_key, ready.claimed.case_id, protocol.limits.audit_share)
    return replace(ready.record, audit=drawn and ready.record.decision.route == Route.ROUTINE)


def _stopped(record: DecisionRecord) -> DecisionRecord:
    """The decision of the same evidence in the safe state, which may have begun since it was made."""
    if record.evidence.safe_state:
        return record
    evidence = replace(record.evidence, safe_state=True)
    decision = decide(evidence, record.policy, record.decided_at.date())
    return replace(record, evidence=evidence, decision=decision, audit=False)


def _refused(decision: Decision) -> Decision:
    detail = "the database did not accept the proof of this decision"
    return replace(decision, route=Route.REVIEW, reasons=(Reason.NOT_ANALYSED,), details=(detail,))


def _record(connection: Transaction, claimed: ClaimedCase, protocol: TriageProtocol, record: DecisionRecord) -> None:
    """The decision of a finished case with proof and outbox row, the worklist item and the audit event."""
    case_rows.register_protocol(
        connection,
        digest=protocol.digest,
        name=protocol.name,
        content=protocol.model_dump(mode="json"),
        now=record.decided_at,
    )
    decision_id = decision_rows.record_decision(connection, record)
    _schedule(connection, protocol, record)
    audit_rows.append(
        connection,
        at=record.decided_at,
        actor=ACTOR,
        event="case_decided",
        case_id=claimed.case_id,
        study_id=claimed.study_id,
        payload=_for_the_trail(decision_id, record),
    )


def _schedule(connection: Transaction, protocol: TriageProtocol, record: DecisionRecord) -> None:
    """The worklist item of a case that a person reads; an audited one looks like a REVIEW."""
    route = Route.REVIEW if record.audit else Route(record.decision.route)
    reasons: tuple[str, ...] = _told(record)
    if route not in _ITEM_PRIORITY:
        if not worklist_rows.was_asked_for(connection, record.case_id):
            return
        route, reasons = Route.REVIEW, (worklist_rows.REQUESTED,)
    rule = protocol.routes[route]
    worklist_rows.schedule_item(
        connection,
        case_id=record.case_id,
        specialty=rule.specialty,
        priority=_ITEM_PRIORITY[route],
        reasons=reasons,
        due_at=record.decided_at + timedelta(minutes=rule.longest_wait_minutes),
        now=record.decided_at,
    )


def _for_the_trail(decision_id: str, record: DecisionRecord) -> dict[str, Any]:
    """What binds the decision's row to the audit trail: identifiers and digests."""
    evidence = canonical_json(evidence_json(record.evidence))
    return {
        "decision": decision_id,
        "route": str(record.decision.route),
        "reasons": plain(record.decision.reasons),
        "fence": record.fence,
        "release_digest": record.evidence.release_digest,
        "protocol_digest": record.protocol_digest,
        "manifest_digest": record.manifest_digest,
        "evidence_digest": hashlib.sha256(evidence.encode()).hexdigest(),
    }


def _told(record: DecisionRecord) -> tuple[Reason, ...]:
    """The reasons a reader is shown: what follows from the score alone stands only where nothing else does."""
    if record.decision.route == Route.PRIORITY:
        return record.decision.reasons
    by_score = {Reason.UNCERTAIN, Reason.CONFIDENT_ABSENCE}
    if dict(record.decision.guards).get("certificate_valid"):
        by_score.add(Reason.NOT_CERTIFIED)
    return tuple(reason for reason in record.decision.reasons if reason not in by_score) or _AUDIT_REASONS
