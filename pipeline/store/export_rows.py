"""What leaves the house in an export: images of a study's newest sealed revision, and what readers found in them."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, and_, or_, select

from pipeline.domain.second_reads import ADJUDICATION
from pipeline.domain.study import StudyState, Verdict
from pipeline.store.tables import case, instance, read, revision_instance, study, study_revision

_TAKEN_BACK = "amend"  #: the reader would now read otherwise


def sealed_study(connection: Connection, name: str) -> str | None:
    """Id of the study of that id or StudyInstanceUID, or of the case of that id; None where none was ever sealed."""
    of_case = select(case.c.study_id).where(case.c.id == name)
    named = or_(study.c.id == name, study.c.study_instance_uid == name, study.c.id.in_(of_case))
    return connection.execute(select(study.c.id).where(study.c.revision > 0, named)).scalar_one_or_none()


def sealed_studies(connection: Connection) -> list[str]:
    """Ids of all studies that are sealed now, oldest first."""
    query = select(study.c.id).where(study.c.state == StudyState.SEALED)
    return list(connection.execute(query.order_by(study.c.first_seen_at, study.c.id)).scalars())


def accepted_series(connection: Connection, study_id: str) -> list[tuple[str, ...]]:
    """SHA-256s of the accepted instances of each series of the newest sealed revision, in order of arrival."""
    query = (
        select(instance.c.sha256, instance.c.series_instance_uid)
        .join(revision_instance, revision_instance.c.instance_id == instance.c.id)
        .join(study_revision, study_revision.c.id == revision_instance.c.revision_id)
        .join(study, study.c.id == study_revision.c.study_id)
        .where(_is_newest(study_id), instance.c.verdict == Verdict.ACCEPTED)
        .order_by(instance.c.sequence)
    )
    found: dict[str | None, list[str]] = {}
    for row in connection.execute(query):
        found.setdefault(row.series_instance_uid, []).append(row.sha256)
    return [tuple(digests) for digests in found.values()]


def findings(connection: Connection, study_id: str, protocol: str) -> set[str]:
    """What committed reads of the newest sealed revision say under that protocol.

    Reads taken back say nothing, and where an adjudicator has decided, nobody else does.
    """
    stands = or_(read.c.agreement.is_(None), read.c.agreement != _TAKEN_BACK)
    adjudicated = select(read.c.case_id).where(read.c.round == ADJUDICATION)
    final = or_(read.c.round == ADJUDICATION, read.c.case_id.not_in(adjudicated))
    query = (
        select(read.c.finding)
        .join(case, case.c.id == read.c.case_id)
        .join(study_revision, study_revision.c.id == case.c.revision_id)
        .join(study, study.c.id == study_revision.c.study_id)
        .where(_is_newest(study_id), case.c.protocol == protocol, stands, final)
    )
    return set(connection.execute(query).scalars())


def _is_newest(study_id: str) -> ColumnElement[bool]:
    return and_(study.c.id == study_id, study_revision.c.revision == study.c.revision)
