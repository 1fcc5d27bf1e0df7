"""Studies that grow, and whose images: the row every intake locks, and the identity beside it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from pipeline.domain.study import InstanceHeader, StudyState
from pipeline.store.json_values import IDENTITY_FIELDS
from pipeline.store.sequences import new_id
from pipeline.store.tables import identity, study


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study as it stands; `revision` is the newest sealed one, 0 before the first."""

    id: str
    patient_pseudonym: str
    state: StudyState
    revision: int
    identity_conflict: bool
    content_conflict: bool
    last_seen_at: datetime


def locked_study(connection: Connection, study_id: str) -> Study:
    """The study, held against other writers until this transaction ends."""
    row = connection.execute(select(study).where(study.c.id == study_id).with_for_update()).one()
    return Study(
        id=row.id,
        patient_pseudonym=row.patient_pseudonym,
        state=StudyState(row.state),
        revision=row.revision,
        identity_conflict=row.identity_conflict,
        content_conflict=row.content_conflict,
        last_seen_at=row.last_seen_at,
    )


def find_or_add(connection: Connection, header: InstanceHeader, pseudonym: str, now: datetime) -> Study:
    """The study that `header` names, made with its identity when it is new, and held against other writers."""
    uid = header.study_instance_uid
    known = connection.execute(select(study.c.id).where(study.c.study_instance_uid == uid)).scalar_one_or_none()
    if known is None:
        known = new_id()
        connection.execute(
            insert(study).values(
                id=known,
                study_instance_uid=uid,
                patient_pseudonym=pseudonym,
                state=StudyState.OPEN,
                first_seen_at=now,
                last_seen_at=now,
            )
        )
        _add_identity(connection, known, header)
    return locked_study(connection, known)


def adopt_identity(connection: Connection, study_id: str, header: InstanceHeader, pseudonym: str) -> None:
    """Take the identity of a study's first accepted image instead of one from a file that could not be read."""
    connection.execute(update(study).where(study.c.id == study_id).values(patient_pseudonym=pseudonym))
    connection.execute(delete(identity).where(identity.c.study_id == study_id))
    _add_identity(connection, study_id, header)


def note_arrival(connection: Connection, study_id: str, now: datetime) -> None:
    """An image arrived: the study is open, and quiet only from now on."""
    connection.execute(update(study).where(study.c.id == study_id).values(state=StudyState.OPEN, last_seen_at=now))


def note_conflicts(connection: Connection, study_id: str, *, identities: bool = False, contents: bool = False) -> None:
    """Mark a study that carries two identities, or an instance with two contents; marks are never taken away."""
    marks = {"identity_conflict": identities, "content_conflict": contents}
    values = {name: True for name, found in marks.items() if found}
    if values:
        connection.execute(update(study).where(study.c.id == study_id).values(**values))


def open_studies(connection: Connection, *, quiet_since: datetime | None) -> list[str]:
    """Ids of open studies, oldest first; with `quiet_since` only those without an arrival after it."""
    query = select(study.c.id).where(study.c.state == StudyState.OPEN)
    if quiet_since is not None:
        query = query.where(study.c.last_seen_at <= quiet_since)
    return list(connection.execute(query.order_by(study.c.first_seen_at, study.c.id)).scalars())


def _add_identity(connection: Connection, study_id: str, header: InstanceHeader) -> None:
    values = {name: _storable(name, getattr(header, name)) for name in IDENTITY_FIELDS}
    connection.execute(insert(identity).values(study_id=study_id, **values))


def _storable(name: str, value: str | None) -> str | None:
    """Text that every database takes: no NUL, valid Unicode, not longer than its column."""
    if value is None:
        return None
    longest = getattr(identity.c[name].type, "length", None)
    return value.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")[:longest]
