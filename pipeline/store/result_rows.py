"""One result, put together from the record of its decision, the study's identity and the read, where there is one.

What is told is decided here and not where it is written: while a clinician reads a case without knowing the model's
answer, a result carries none of its numbers, an audited case looks like every deferred one, and no reason says more than
the worklist does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, or_, select

from pipeline.domain.case import Reason, Route
from pipeline.domain.result import (
    Absent,
    Algorithm,
    Concept,
    DeliveryState,
    Findings,
    HumanRead,
    Numbers,
    Person,
    Result,
    ResultForm,
    ResultKind,
    SourceInstance,
)
from pipeline.protocol import TriageProtocol
from pipeline.store import read_rows, round_rows
from pipeline.store.door_tables import delivery
from pipeline.store.json_values import IDENTITY_FIELDS
from pipeline.store.revision_rows import sealed_revision
from pipeline.store.tables import (
    case,
    decision,
    identity,
    outbox,
    protocol_text,
    study,
    study_revision,
    worklist_item,
)

_TELLING_REASONS = frozenset({Reason.CONFIDENT_FINDING, Reason.CONFIDENT_ABSENCE})


def load_result(connection: Connection, outbox_id: str, *, withhold: bool, version: str) -> Result:
    """The result that an outbox row announces; `withhold` keeps numbers back until the last read is committed."""
    row = connection.execute(_query().where(outbox.c.id == outbox_id)).one()
    protocol = TriageProtocol.model_validate(dict(row.content))
    item, human = _item(connection, row.case_id), _read(connection, row)
    is_read_on = round_rows.open_round(connection, row.case_id) is not None
    told = _told(row, item, protocol, human, blind=withhold and item is not None and (human is None or is_read_on))
    return replace(
        told,
        person=_person(connection, row.study_id),
        sources=_sources(connection, row.revision_id),
        algorithm=Algorithm(
            protocol=row.protocol,
            protocol_digest=row.protocol_digest,
            release_digest=row.release_digest,
            version=version,
        ),
        predecessors=_predecessors(connection, row),
    )


def _query() -> Any:
    return (
        select(
            outbox.c.id.label("outbox_id"),
            outbox.c.kind,
            decision,
            case.c.study_id,
            case.c.revision_id,
            case.c.protocol,
            study.c.study_instance_uid,
            study_revision.c.revision,
            protocol_text.c.content,
        )
        .join(decision, decision.c.id == outbox.c.decision_id)
        .join(case, case.c.id == decision.c.case_id)
        .join(study, study.c.id == case.c.study_id)
        .join(study_revision, study_revision.c.id == case.c.revision_id)
        .join(protocol_text, protocol_text.c.digest == decision.c.protocol_digest)
    )


def _told(
    row: Row[Any], item: Row[Any] | None, protocol: TriageProtocol, human: HumanRead | None, *, blind: bool
) -> Result:
    analysis: Mapping[str, Any] | None = row.evidence.get("analysis")
    numbers, absent = (None, Absent.WITHHELD) if blind and analysis else _numbers(analysis)
    route = Route.REVIEW if blind and row.audit else Route(row.route)
    findings = Findings.WITHHELD if blind and analysis else _findings(route, analysis)
    return Result(
        outbox_id=row.outbox_id,
        kind=ResultKind(row.kind),
        case_id=row.case_id,
        decision_id=row.id,
        revision=row.revision,
        study_instance_uid=row.study_instance_uid,
        person=Person(),
        sources=(),
        question=protocol.question,
        finding=_finding(protocol),
        route=route.value,
        reasons=_reasons(row, item, blind=blind),
        findings=findings,
        asserted=findings is Findings.WITH if human is None else _is_finding(protocol, human.finding),
        numbers=numbers,
        absent=absent,
        specialty=None if item is None else str(item.specialty),
        due_at=None if item is None else item.due_at,
        algorithm=Algorithm(protocol="", protocol_digest="", release_digest=None, version=""),
        decided_at=row.decided_at,
        told_at=_moment(row, human),
        read=human,
    )


def _moment(row: Row[Any], human: HumanRead | None) -> datetime:
    moment: datetime = row.decided_at if human is None else human.committed_at
    return moment


def _reasons(row: Row[Any], item: Row[Any] | None, *, blind: bool) -> tuple[str, ...]:
    if not blind or item is None:
        return tuple(row.reasons)
    return tuple(reason for reason in item.reasons if reason not in _TELLING_REASONS)


def _findings(route: Route, analysis: Mapping[str, Any] | None) -> Findings:
    if analysis is None:
        return Findings.NONE
    return {Route.PRIORITY: Findings.WITH, Route.ROUTINE: Findings.WITHOUT}.get(route, Findings.PARTIAL)


def _numbers(analysis: Mapping[str, Any] | None) -> tuple[Numbers | None, Absent | None]:
    if analysis is None:
        return None, Absent.NOT_PERFORMED
    said, novelty = analysis["uncertainty"], analysis["novelty"]
    values = {
        "probability": said["route_score"],
        "predictive_entropy": said["predictive_entropy"],
        "expected_entropy": said["expected_entropy"],
        "mutual_information": said["mutual_information"],
        "novelty_p": novelty["combined"],
    }
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values.values()):
        return None, Absent.NOT_A_NUMBER
    return Numbers(passes=said["passes"], members=said["members"], **values), None


def _finding(protocol: TriageProtocol) -> Concept:
    asked = next(found for found in protocol.classes if found.finding)
    if asked.code is None:
        return Concept(scheme="99SECONDREAD", value=asked.name.upper(), meaning=asked.name.replace("_", " "))
    return Concept(scheme=asked.code.scheme, value=asked.code.value, meaning=asked.code.meaning)


def _is_finding(protocol: TriageProtocol, name: str) -> bool:
    return any(found.name == name and found.finding for found in protocol.classes)


def _item(connection: Connection, case_id: str) -> Row[Any] | None:
    """The item of the first read, so that a result tells nothing of a second one."""
    query = select(worklist_item).where(worklist_item.c.case_id == case_id)
    return connection.execute(query.order_by(worklist_item.c.round, worklist_item.c.created_at.desc()).limit(1)).first()


def _read(connection: Connection, row: Row[Any]) -> HumanRead | None:
    """The read that stands for the case, where the read is what is told."""
    final = read_rows.final_read(connection, row.case_id) if row.kind == ResultKind.READ else None
    if final is None:
        return None
    stored, reader = final
    return HumanRead(
        reader=reader,
        finding=stored.finding,
        certainty=stored.certainty,
        comment=stored.comment,
        committed_at=stored.committed_at,
    )


def _person(connection: Connection, study_id: str) -> Person:
    row = connection.execute(select(identity).where(identity.c.study_id == study_id)).one_or_none()
    return Person() if row is None else Person(**{name: getattr(row, name) for name in IDENTITY_FIELDS})


def _sources(connection: Connection, revision_id: str) -> tuple[SourceInstance, ...]:
    """Every image of the revision with a header, quarantined ones too: the result speaks of the study as it came."""
    headers = [member.header for member in sealed_revision(connection, revision_id).members if member.header]
    return tuple(
        SourceInstance(
            sop_class_uid=header.sop_class_uid,
            sop_instance_uid=header.sop_instance_uid,
            series_instance_uid=header.series_instance_uid,
            modality=header.modality or "OT",
            frames=header.number_of_frames,
        )
        for header in {header.sop_instance_uid: header for header in headers}.values()
        if header.sop_class_uid and header.sop_instance_uid and header.series_instance_uid
    )


def _predecessors(connection: Connection, row: Row[Any]) -> tuple[tuple[str, str], ...]:
    """Our earlier reports about the study under this protocol that some receiver has."""
    of_case = and_(case.c.id == row.case_id, outbox.c.kind == ResultKind.TRIAGE, row.kind == ResultKind.READ)
    query = (
        select(delivery.c.sop_instance_uid, delivery.c.series_instance_uid)
        .join(outbox, outbox.c.id == delivery.c.outbox_id)
        .join(decision, decision.c.id == outbox.c.decision_id)
        .join(case, case.c.id == decision.c.case_id)
        .join(study_revision, study_revision.c.id == case.c.revision_id)
        .where(case.c.study_id == row.study_id, case.c.protocol == row.protocol)
        .where(or_(study_revision.c.revision < row.revision, of_case))
        .where(delivery.c.form == ResultForm.SR.value, delivery.c.state == DeliveryState.PROVEN)
        .order_by(study_revision.c.revision, outbox.c.created_at)
    )
    return tuple(dict.fromkeys((found[0], found[1]) for found in connection.execute(query)))
