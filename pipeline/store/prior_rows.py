"""Earlier studies of a case's patient, to be looked at beside it; nothing here selects a case, a read or a decision."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, exists, select

from pipeline.store.tables import case, identity, instance, revision_instance, study, study_revision

MOST_PRIORS = 10  #: offered beside a case, the newest first
_SAME_PERSON = ("patient_birth_date", "patient_sex")  #: must not differ where both studies tell them


@dataclass(frozen=True, kw_only=True)
class Prior:
    """The newest sealed revision of an earlier study of the same patient."""

    revision_id: str
    study_date: str | None
    first_seen_at: datetime


def priors_of(connection: Connection, case_id: str) -> list[Prior]:
    """Earlier studies of the patient that hold sealed images, the newest first.

    Empty for a case that is not known, and where the case's study carries two identities; a study that carries two, or
    whose birth date or sex differs, is never among them.
    """
    own = connection.execute(
        _identified().join(case, case.c.study_id == study.c.id).where(case.c.id == case_id)
    ).first()
    if own is None or own.identity_conflict:
        return []
    found = connection.execute(
        _identified()
        .add_columns(study_revision.c.id.label("revision_id"))
        .join(
            study_revision,
            and_(study_revision.c.study_id == study.c.id, study_revision.c.revision == study.c.revision),
        )
        .where(
            study.c.patient_pseudonym == own.patient_pseudonym,
            study.c.id != own.study_id,
            study.c.identity_conflict.is_(False),
            _holds_images(),
        )
    )
    earlier = [row for row in found if _is_earlier(row, own) and _is_same_person(row, own)]
    earlier.sort(key=lambda row: (row.study_date or "", row.study_time or "", row.first_seen_at), reverse=True)
    return [
        Prior(revision_id=row.revision_id, study_date=row.study_date, first_seen_at=row.first_seen_at)
        for row in earlier[:MOST_PRIORS]
    ]


def _identified() -> Select[tuple[object, ...]]:
    columns = (*(identity.c[name] for name in _SAME_PERSON), identity.c.study_date, identity.c.study_time)
    return select(
        study.c.id.label("study_id"),
        study.c.patient_pseudonym,
        study.c.identity_conflict,
        study.c.first_seen_at,
        *columns,
    ).join(identity, identity.c.study_id == study.c.id)


def _holds_images() -> ColumnElement[bool]:
    members = revision_instance.join(instance, instance.c.id == revision_instance.c.instance_id)
    return (
        exists()
        .select_from(members)
        .where(
            revision_instance.c.revision_id == study_revision.c.id,
            instance.c.verdict == "accepted",
            instance.c.is_image.is_(True),
        )
    )


def _is_earlier(row: Row[tuple[object, ...]], own: Row[tuple[object, ...]]) -> bool:
    """By the dates of the studies; on one day by their times; by arrival where these tell nothing."""
    if row.study_date and own.study_date and row.study_date != own.study_date:
        return bool(row.study_date < own.study_date)
    if row.study_date and own.study_date and row.study_time and own.study_time and row.study_time != own.study_time:
        return bool(row.study_time < own.study_time)
    return bool(row.first_seen_at < own.first_seen_at)


def _is_same_person(row: Row[tuple[object, ...]], own: Row[tuple[object, ...]]) -> bool:
    told = ((row._mapping[name], own._mapping[name]) for name in _SAME_PERSON)  # noqa: SLF001 - the documented row view
    return all(theirs == ours for theirs, ours in told if theirs and ours)
