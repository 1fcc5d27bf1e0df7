"""Sealed revisions of studies: which instances belong to one, and the evidence that none is missing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from pipeline.domain.study import InstanceHeader, SealEvidence, StudyState, Verdict
from pipeline.store.json_values import header_from, plain, seal_from
from pipeline.store.sequences import new_id
from pipeline.store.tables import case, decision, instance, revision_instance, study, study_revision


@dataclass(frozen=True, kw_only=True)
class Member:
    """One instance of a study with what its ledger line says; `header` is without identity fields."""

    instance_id: str
    sha256: str
    verdict: Verdict
    reason: str | None
    is_image: bool
    sop_instance_uid: str | None
    header: InstanceHeader | None


@dataclass(frozen=True, kw_only=True)
class SealedRevision:
    """What a case is decided on: evidence, members in order of arrival, and the digest over the accepted ones."""

    id: str
    study_id: str
    manifest_digest: str
    evidence: SealEvidence
    members: tuple[Member, ...]


def members_of_study(connection: Connection, study_id: str) -> tuple[Member, ...]:
    """Accepted and quarantined instances of the study in order of arrival."""
    query = select(instance).where(instance.c.study_id == study_id, instance.c.verdict != Verdict.DUPLICATE)
    return tuple(_member(row) for row in connection.execute(query.order_by(instance.c.sequence)))


def manifest_digest(digests: Iterable[str]) -> str:
    """SHA-256 over the sorted SHA-256s of the accepted instances, hexadecimal."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def add_revision(
    connection: Connection,
    *,
    study_id: str,
    revision: int,
    evidence: SealEvidence,
    members: Iterable[Member],
    now: datetime,
) -> SealedRevision:
    """Seal a study: the revision with its members becomes the newest one."""
    kept = tuple(members)
    digest = manifest_digest(m.sha256 for m in kept if m.verdict is Verdict.ACCEPTED)
    sealed = SealedRevision(id=new_id(), study_id=study_id, manifest_digest=digest, evidence=evidence, members=kept)
    row = {"study_id": study_id, "revision": revision, "manifest_digest": digest, "sealed_at": now}
    connection.execute(insert(study_revision).values(id=sealed.id, evidence=plain(evidence), **row))
    if kept:
        links = [{"revision_id": sealed.id, "instance_id": member.instance_id} for member in kept]
        connection.execute(insert(revision_instance), links)
    closed = {"state": StudyState.SEALED, "revision": revision}
    connection.execute(update(study).where(study.c.id == study_id).values(**closed))
    return sealed


def newest_revision(connection: Connection, study_id: str) -> SealedRevision:
    """The newest sealed revision of a study that has one."""
    query = (
        select(study_revision.c.id)
        .join(study, study.c.id == study_revision.c.study_id)
        .where(study.c.id == study_id, study_revision.c.revision == study.c.revision)
    )
    return sealed_revision(connection, connection.execute(query).scalar_one())


def sealed_revision(connection: Connection, revision_id: str) -> SealedRevision:
    """The revision of that id with its members."""
    row = connection.execute(select(study_revision).where(study_revision.c.id == revision_id)).one()
    members = (
        select(instance)
        .join(revision_instance, revision_instance.c.instance_id == instance.c.id)
        .where(revision_instance.c.revision_id == revision_id)
        .order_by(instance.c.sequence)
    )
    return SealedRevision(
        id=row.id,
        study_id=row.study_id,
        manifest_digest=row.manifest_digest,
        evidence=seal_from(row.evidence),
        members=tuple(_member(found) for found in connection.execute(members)),
    )


def was_decided(connection: Connection, study_id: str) -> bool:
    """Whether any case of any revision of the study has ever been decided."""
    query = select(decision.c.id).join(case, case.c.id == decision.c.case_id).where(case.c.study_id == study_id)
    return connection.execute(query.limit(1)).first() is not None


def sealed_without_case(connection: Connection) -> list[str]:
    """Ids of sealed studies whose newest revision was put to no protocol."""
    has_case = (
        select(case.c.id)
        .join(study_revision, study_revision.c.id == case.c.revision_id)
        .where(case.c.study_id == study.c.id, study_revision.c.revision == study.c.revision)
    )
    query = select(study.c.id).where(study.c.state == StudyState.SEALED, ~has_case.exists())
    return list(connection.execute(query.order_by(study.c.first_seen_at, study.c.id)).scalars())


def _member(row: Row[Any]) -> Member:
    return Member(
        instance_id=row.id,
        sha256=row.sha256,
        verdict=Verdict(row.verdict),
        reason=row.reason,
        is_image=row.is_image,
        sop_instance_uid=row.sop_instance_uid,
        header=None if row.header is None else header_from(row.header),
    )
