"""The ledger of received bytes: one row for everything that was ever taken in, in order of arrival."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, insert, select

from pipeline.domain.study import InstanceHeader, Verdict
from pipeline.store.json_values import header_json
from pipeline.store.sequences import new_id, next_number
from pipeline.store.tables import instance


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One received file; `reason` belongs to quarantined ones, `study_id` is None when the bytes name no study."""

    sha256: str
    size: int
    source: str
    verdict: Verdict
    is_image: bool
    reason: str | None = None
    study_id: str | None = None
    header: InstanceHeader | None = None


@dataclass(frozen=True)
class Accepted:
    """An instance that is part of a study; `content_digest` as in its header."""

    sha256: str
    study_id: str
    content_digest: str | None = None


def next_place(connection: Connection) -> int:
    """The place of the next file in the order of arrival; other intakes wait until this transaction ends."""
    return next_number(connection, instance.c.sequence)


def accepted_bytes(connection: Connection, sha256: str) -> Accepted | None:
    """The accepted instance with exactly these bytes, or None."""
    query = select(instance.c.sha256, instance.c.study_id).where(
        instance.c.sha256 == sha256, instance.c.verdict == Verdict.ACCEPTED
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else Accepted(row.sha256, row.study_id)


def accepted_uid(connection: Connection, sop_instance_uid: str) -> Accepted | None:
    """The accepted instance of that SOPInstanceUID, or None."""
    query = select(instance.c.sha256, instance.c.study_id, instance.c.header).where(
        instance.c.sop_instance_uid == sop_instance_uid, instance.c.verdict == Verdict.ACCEPTED
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else Accepted(row.sha256, row.study_id, (row.header or {}).get("content_digest"))


def has_accepted(connection: Connection, study_id: str) -> bool:
    """Whether the study has an accepted instance."""
    query = select(func.count()).where(instance.c.study_id == study_id, instance.c.verdict == Verdict.ACCEPTED)
    return bool(connection.execute(query).scalar_one())


def add_entry(connection: Connection, entry: LedgerEntry, *, place: int, now: datetime) -> None:
    """Write one line of the ledger; raises when the database finds a promise broken."""
    header = entry.header
    connection.execute(
        insert(instance).values(
            id=new_id(),
            sequence=place,
            sha256=entry.sha256,
            size=entry.size,
            source=entry.source[:64],
            verdict=entry.verdict,
            reason=None if entry.reason is None else entry.reason[:64],
            is_image=entry.is_image,
            study_id=entry.study_id,
            sop_instance_uid=None if header is None else header.sop_instance_uid[:64] or None,
            series_instance_uid=None if header is None else header.series_instance_uid[:64] or None,
            header=None if header is None else header_json(header),
            received_at=now,
        )
    )
