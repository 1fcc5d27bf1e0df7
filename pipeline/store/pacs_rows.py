"""What the PACS said about studies, and what we hold beside it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select

from pipeline.domain.announced import AnnouncedSeries, Announcement
from pipeline.domain.study import Verdict
from pipeline.store.door_tables import delivery, pacs_answer
from pipeline.store.json_values import plain
from pipeline.store.tables import case as triage_case
from pipeline.store.tables import decision, identity, instance, outbox, study


def note_answer(connection: Connection, study_id: str, announcement: Announcement, now: datetime) -> None:
    """Keep the newest answer of the PACS about a study."""
    connection.execute(delete(pacs_answer).where(pacs_answer.c.study_id == study_id))
    connection.execute(
        insert(pacs_answer).values(
            study_id=study_id,
            source=announcement.source,
            series=plain(announcement.series),
            other_patient=announcement.other_patient,
            asked_at=now,
        )
    )


def answer(connection: Connection, study_id: str, *, since: datetime) -> Announcement | None:
    """The newest answer about a study given since that moment: an older one proves nothing about what came later."""
    query = select(pacs_answer).where(pacs_answer.c.study_id == study_id, pacs_answer.c.asked_at >= since)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    series = tuple(AnnouncedSeries(**found) for found in row.series)
    return Announcement(source=row.source, series=series, other_patient=row.other_patient)


def uid_of(connection: Connection, study_id: str) -> str:
    """The StudyInstanceUID of our study."""
    found: str = connection.execute(select(study.c.study_instance_uid).where(study.c.id == study_id)).scalar_one()
    return found


def study_ids(connection: Connection, uids: list[str]) -> dict[str, str]:
    """Our ids of studies by StudyInstanceUID, of those that we know."""
    query = select(study.c.study_instance_uid, study.c.id).where(study.c.study_instance_uid.in_(uids))
    return {row.study_instance_uid: row.id for row in connection.execute(query)}


def patient_of(connection: Connection, study_id: str) -> tuple[str | None, str | None]:
    """PatientID and its issuer as our images say them; for comparison only."""
    query = select(identity.c.patient_id, identity.c.issuer_of_patient_id).where(identity.c.study_id == study_id)
    row = connection.execute(query).one_or_none()
    return (None, None) if row is None else (row.patient_id, row.issuer_of_patient_id)


def received_by_series(connection: Connection, study_id: str) -> dict[str, int]:
    """Distinct SOP instances of the study by series, whatever their verdict: what the PACS counts too."""
    query = (
        select(instance.c.series_instance_uid, func.count(func.distinct(instance.c.sop_instance_uid)))
        .where(instance.c.study_id == study_id, instance.c.verdict != Verdict.DUPLICATE)
        .where(instance.c.series_instance_uid.is_not(None))
        .group_by(instance.c.series_instance_uid)
    )
    return {series: int(count) for series, count in connection.execute(query)}


def held_instances(connection: Connection, study_id: str) -> set[str]:
    """SOP instance UIDs of everything that came of a study, whatever its verdict."""
    query = select(instance.c.sop_instance_uid).where(
        instance.c.study_id == study_id, instance.c.sop_instance_uid.is_not(None)
    )
    return set(connection.execute(query).scalars())


def own_series(connection: Connection, study_id: str) -> tuple[str, ...]:
    """Series that we sent into the study ourselves."""
    query = (
        select(delivery.c.series_instance_uid)
        .join(outbox, outbox.c.id == delivery.c.outbox_id)
        .join(decision, decision.c.id == outbox.c.decision_id)
        .join(triage_case, triage_case.c.id == decision.c.case_id)
        .where(triage_case.c.study_id == study_id, delivery.c.series_instance_uid.is_not(None))
        .distinct()
    )
    return tuple(connection.execute(query).scalars())


def is_ours(connection: Connection, sop_instance_uid: str) -> bool:
    """Whether we made that object ourselves."""
    query = select(delivery.c.id).where(delivery.c.sop_instance_uid == sop_instance_uid)
    return connection.execute(query.limit(1)).first() is not None
