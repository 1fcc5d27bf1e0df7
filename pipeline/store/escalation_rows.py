"""Items that wait beyond their limit: each is escalated once, whichever run sees it first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, exists, func, or_, select, update

from pipeline.domain.notices import NoticeKind
from pipeline.store.reading_order import is_open
from pipeline.store.room_tables import notice
from pipeline.store.tables import case, worklist_item


@dataclass(frozen=True, kw_only=True)
class OverdueItem:
    """One item that nobody had read when it was due."""

    item_id: str
    case_id: str
    protocol: str
    specialty: str
    priority: int
    due_at: datetime


def take_overdue(connection: Connection, *, now: datetime, limit: int) -> list[OverdueItem]:
    """Mark open items past their due moment as escalated and return those that were not before, longest wait first.

    The item of a later round brings the moment of its case along, and is escalated all the same: it waits for others.
    """
    told = exists().where(notice.c.kind == NoticeKind.ESCALATION.value, notice.c.subject == worklist_item.c.id)
    unmarked = or_(worklist_item.c.escalated_at.is_(None), and_(worklist_item.c.round > 1, ~told))
    fresh = (is_open(), worklist_item.c.due_at <= now, unmarked)
    query = (
        select(worklist_item, case.c.protocol)
        .join(case, case.c.id == worklist_item.c.case_id)
        .where(*fresh)
        .order_by(worklist_item.c.due_at, worklist_item.c.id)
        .limit(limit)
    )
    return [
        OverdueItem(
            item_id=row.id,
            case_id=row.case_id,
            protocol=row.protocol,
            specialty=row.specialty,
            priority=row.priority,
            due_at=row.due_at,
        )
        for row in connection.execute(query).all()
        if connection.execute(
            update(worklist_item)
            .where(worklist_item.c.id == row.id, *fresh)
            .values(escalated_at=func.coalesce(worklist_item.c.escalated_at, now))
        ).rowcount
        == 1
    ]
