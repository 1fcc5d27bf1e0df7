"""Reads: one clinician's interpretation of one case, written once, with the moments that show it was made blind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, case, insert, literal, select, update

from pipeline.domain.second_reads import ADJUDICATION
from pipeline.store.columns import UtcTime
from pipeline.store.sequences import new_id
from pipeline.store.tables import account, audit_event, read

OPENED = "read.opened"  #: the audit event of a reader who takes hold of an item


@dataclass(frozen=True, kw_only=True)
class StoredRead:
    """A committed read; `revealed_at` is None until its reader has seen the model's answer."""

    id: str
    item_id: str
    case_id: str
    reader_id: str
    finding: str
    certainty: int
    comment: str
    opened_at: datetime
    committed_at: datetime
    revealed_at: datetime | None
    agreement: str | None
    amended_to: str | None = None
    round: int = 1
    answers: Mapping[str, Any] | None = None


def add_read(
    connection: Connection,
    *,
    item_id: str,
    case_id: str,
    reader_id: str,
    finding: str,
    certainty: int,
    comment: str,
    fence: int,
    opened_at: datetime,
    committed_at: datetime,
    number: int = 1,
    answers: Mapping[str, Any] | None = None,
) -> str:
    """Write a read of round `number` and return its id; the database refuses a second read of one item or reader."""
    read_id = new_id()
    connection.execute(
        insert(read).values(
            id=read_id,
            item_id=item_id,
            case_id=case_id,
            reader_id=reader_id,
            finding=finding,
            certainty=certainty,
            comment=comment,
            fence=fence,
            opened_at=opened_at,
            committed_at=committed_at,
            round=number,
            answers=None if answers is None else dict(answers),
        )
    )
    return read_id


def read_by(connection: Connection, *, case_id: str, reader_id: str) -> StoredRead | None:
    """This reader's newest read of the case, or None."""
    query = (
        select(read)
        .where(read.c.case_id == case_id, read.c.reader_id == reader_id)
        .order_by(read.c.committed_at.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _stored(row)


def reads_of(connection: Connection, case_id: str) -> list[tuple[StoredRead, str]]:
    """Every committed read of a case with its reader's name, in the order of the rounds."""
    query = (
        select(read, account.c.name.label("reader"))
        .join(account, account.c.id == read.c.reader_id)
        .where(read.c.case_id == case_id)
        .order_by(read.c.round, read.c.committed_at, read.c.id)
    )
    return [(_stored(row), row.reader) for row in connection.execute(query)]


def final_read(connection: Connection, case_id: str) -> tuple[StoredRead, str] | None:
    """The read that stands for the case, with its reader's name: the adjudication where there is one, else the first."""
    reads = reads_of(connection, case_id)
    decided = [pair for pair in reads if pair[0].round == ADJUDICATION]
    return next(iter((*decided, *reads)), None)


def _stored(row: Row[Any]) -> StoredRead:
    names = StoredRead.__dataclass_fields__
    return StoredRead(**{name: row._mapping[name] for name in names})  # noqa: SLF001 - the documented row view


def mark_revealed(connection: Connection, *, read_id: str, now: datetime) -> bool:
    """Note the first moment the model's answer was shown to this reader; False when it was noted before.

    Where another machine's clock, ahead of this one, told the moment of the commit, that moment is noted.
    """
    moment = case((read.c.committed_at > now, read.c.committed_at), else_=literal(now, UtcTime))
    changed = connection.execute(
        update(read).where(read.c.id == read_id, read.c.revealed_at.is_(None)).values(revealed_at=moment)
    )
    return changed.rowcount == 1


def record_agreement(connection: Connection, *, read_id: str, agreement: str, amended_to: str | None = None) -> bool:
    """Note once what the reader made of the revealed answer; False before the reveal or the second time."""
    changed = connection.execute(
        update(read)
        .where(read.c.id == read_id, read.c.revealed_at.is_not(None), read.c.agreement.is_(None))
        .values(agreement=agreement, amended_to=amended_to)
    )
    return changed.rowcount == 1


def first_opened(connection: Connection, *, item_id: str, case_id: str, actor: str, event: str) -> datetime | None:
    """The first moment the audit trail shows this reader opening this item."""
    query = (
        select(audit_event.c.at)
        .where(
            audit_event.c.case_id == case_id,
            audit_event.c.actor == actor,
            audit_event.c.event == event,
            audit_event.c.payload.contains(item_id),
        )
        .order_by(audit_event.c.sequence)
        .limit(1)
    )
    return connection.execute(query).scalar_one_or_none()
