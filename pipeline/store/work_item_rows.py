"""Worklist items as other systems see them, and the transaction UIDs under which these hold them.

A hold is the item's own lease and fence, the same that the reading room's readers have; `outside_claim` only says which
transaction UID belongs to which fence, so that a hold that ended or passed on takes its UID with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, exists, insert, or_, select, update

from pipeline.domain.case import CaseState, ItemState
from pipeline.store.line_rows import Line, item_lines, line_of
from pipeline.store.reading_order import is_open, reading_order
from pipeline.store.sequences import new_id
from pipeline.store.tables import case, outside_claim, protocol_text, read, study, worklist_item
from pipeline.store.worklist_rows import is_free, is_held_by, is_open_to

_OPEN = (ItemState.SCHEDULED.value, ItemState.IN_PROGRESS.value)


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """One item with the study it is about; nothing of the model's answer."""

    id: str
    line: Line
    fence: int
    study_instance_uid: str
    revision_id: str
    question: str


@dataclass(frozen=True, kw_only=True)
class CaseOfStudy:
    """A case of a study's newest revision; `has_open_item` when a read of it is asked for already."""

    case_id: str
    protocol: str
    has_open_item: bool


def _items() -> Select[Any]:
    return (
        item_lines()
        .add_columns(
            worklist_item.c.fence,
            study.c.study_instance_uid,
            case.c.revision_id,
            protocol_text.c.content["question"].as_string().label("question"),
        )
        .join(study, study.c.id == case.c.study_id)
        .join(protocol_text, protocol_text.c.digest == case.c.protocol_digest)
    )


def _item(row: Row[Any]) -> WorkItem:
    return WorkItem(
        id=row.item_id,
        line=line_of(row),
        fence=row.fence,
        study_instance_uid=row.study_instance_uid,
        revision_id=row.revision_id,
        question=row.question or "",
    )


def find_item(connection: Connection, item_id: str) -> WorkItem | None:
    """The item of that id, or None."""
    row = connection.execute(_items().where(worklist_item.c.id == item_id)).one_or_none()
    return None if row is None else _item(row)


def search_items(
    connection: Connection, *, account_id: str | None, state: ItemState | None, limit: int, offset: int, now: datetime
) -> list[WorkItem]:
    """Items in that state at `now`, or all, in reading order; a hold whose lease has ended is none.

    Open items that are not for this account are left out, and finished ones of cases that are still being read blind.
    """
    query = _items().where(_is_told(account_id))
    if state is not None:
        query = query.where(_is_in(state, now))
    rows = connection.execute(query.order_by(*reading_order(now)).limit(limit).offset(offset))
    return [_item(row) for row in rows]


def _is_told(account_id: str | None) -> ColumnElement[bool]:
    other = worklist_item.alias()
    is_read_on = exists().where(other.c.case_id == worklist_item.c.case_id, other.c.state.in_(_OPEN))
    is_for = is_open_to(account_id or "", may_adjudicate=False)
    own = exists().where(read.c.item_id == worklist_item.c.id, read.c.reader_id == (account_id or ""))
    return or_(and_(is_open(), is_for), and_(~is_open(), or_(~is_read_on, own)))


def _is_in(state: ItemState, now: datetime) -> ColumnElement[bool]:
    if state is ItemState.SCHEDULED:
        return is_free(now)
    if state is ItemState.IN_PROGRESS:
        return and_(worklist_item.c.state == state, worklist_item.c.lease_until > now)
    return worklist_item.c.state == state


def note_claim(connection: Connection, *, item_id: str, fence: int, transaction_uid: str, now: datetime) -> bool:
    """Write down under which transaction UID a hold was taken; False when this hold has another one."""
    known = select(outside_claim.c.transaction_uid).where(
        outside_claim.c.item_id == item_id, outside_claim.c.fence == fence
    )
    found = connection.execute(known).scalar_one_or_none()
    if found is not None:
        return bool(found == transaction_uid)
    row = {"item_id": item_id, "fence": fence, "transaction_uid": transaction_uid, "claimed_at": now}
    connection.execute(insert(outside_claim).values(**row))
    return True


def fence_of_claim(
    connection: Connection, *, item_id: str, account_id: str, transaction_uid: str, now: datetime
) -> int | None:
    """The fence of the hold that this transaction UID proves, or None when it proves none now."""
    query = (
        select(worklist_item.c.fence)
        .join(outside_claim, outside_claim.c.item_id == worklist_item.c.id)
        .where(
            worklist_item.c.id == item_id,
            outside_claim.c.fence == worklist_item.c.fence,
            outside_claim.c.transaction_uid == transaction_uid,
            is_held_by(account_id, now),
        )
    )
    return connection.execute(query).scalar_one_or_none()


def replace_claim(connection: Connection, *, item_id: str, account_id: str, fence: int, now: datetime) -> str | None:
    """Cancel a held item and put its case on the worklist again, due when it was; the new item's id, or None."""
    kept = (worklist_item.c[name] for name in ("case_id", "specialty", "priority", "reasons", "due_at", "round"))
    held = and_(worklist_item.c.id == item_id, worklist_item.c.fence == fence, is_held_by(account_id, now))
    cancel = update(worklist_item).where(held).values(state=ItemState.CANCELED.value, lease_until=None, ended_at=now)
    row = connection.execute(cancel.returning(*kept)).one_or_none()
    if row is None:
        return None
    again = new_id()
    values = {"id": again, "state": ItemState.SCHEDULED.value, "created_at": now, "fence": 0}
    connection.execute(insert(worklist_item).values(**row._mapping, **values))  # noqa: SLF001 - the documented view
    return again


def cases_of_study(connection: Connection, study_instance_uid: str) -> Sequence[CaseOfStudy]:
    """The cases of a study's newest revision, one for each protocol."""
    asked = exists().where(worklist_item.c.case_id == case.c.id, is_open())
    query = (
        select(case.c.id, case.c.protocol, asked.label("asked"))
        .join(study, study.c.id == case.c.study_id)
        .where(study.c.study_instance_uid == study_instance_uid, case.c.state != CaseState.SUPERSEDED)
        .order_by(case.c.protocol)
    )
    return [
        CaseOfStudy(case_id=row.id, protocol=row.protocol, has_open_item=row.asked) for row in connection.execute(query)
    ]
