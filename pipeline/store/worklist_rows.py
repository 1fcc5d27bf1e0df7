"""Rows of the worklist: what waits for a reader, who holds it, and until when.

A claim is a lease with a fencing token: `fence` grows with every new holder, and every later write names it. An item
whose lease has ended is free again without any clean-up run, because every query compares `lease_until` with `now`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, insert, literal, or_, select, update

from pipeline.domain.case import ItemState
from pipeline.store.sequences import new_id
from pipeline.store.tables import worklist_item

_OPEN = (ItemState.SCHEDULED.value, ItemState.IN_PROGRESS.value)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One reader's hold on one item until `lease_until` (UTC); `fence` proves it at every write."""

    item_id: str
    case_id: str
    fence: int
    lease_until: datetime


def schedule_item(
    connection: Connection,
    *,
    case_id: str,
    specialty: str,
    priority: int,
    reasons: Sequence[str],
    due_at: datetime,
    now: datetime,
) -> str:
    """Put a case on the worklist and return the item's id; the database refuses a second open item of one case."""
    item_id = new_id()
    connection.execute(
        insert(worklist_item).values(
            id=item_id,
            case_id=case_id,
            state=ItemState.SCHEDULED.value,
            specialty=specialty,
            priority=priority,
            reasons=[str(reason) for reason in reasons],
            created_at=now,
            due_at=due_at,
            fence=0,
        )
    )
    return item_id


def cancel_open_items(connection: Connection, *, case_id: str, now: datetime) -> int:  # noqa: ARG001
    """Take a superseded case off the worklist, also out of a reader's hands, and return how many items that was."""
    changed = connection.execute(
        update(worklist_item)
        .where(worklist_item.c.case_id == case_id, worklist_item.c.state.in_(_OPEN))
        .values(state=ItemState.CANCELED.value, fence=worklist_item.c.fence + 1, lease_until=None)
    )
    return changed.rowcount


def is_free(now: datetime) -> ColumnElement[bool]:
    """Whether an item can be claimed at `now`: scheduled, or its holder's lease has ended."""
    ended = and_(worklist_item.c.state == ItemState.IN_PROGRESS.value, worklist_item.c.lease_until <= now)
    return or_(worklist_item.c.state == ItemState.SCHEDULED.value, ended)


def is_held_by(account_id: str, now: datetime) -> ColumnElement[bool]:
    """Whether an item is held by this account at `now`."""
    return and_(
        worklist_item.c.state == ItemState.IN_PROGRESS.value,
        worklist_item.c.claimed_by == account_id,
        worklist_item.c.lease_until > now,
    )


def reading_order(now: datetime) -> tuple[ColumnElement[Any], ...]:
    """Overdue items first, then by priority, then by the moment they are due."""
    overdue = case((worklist_item.c.due_at <= now, 0), else_=1)
    return overdue, worklist_item.c.priority.desc(), worklist_item.c.due_at, worklist_item.c.id


def claim_item(
    connection: Connection, *, case_id: str, account_id: str, lease: timedelta, now: datetime
) -> Claim | None:
    """Hold the open item of a case, or None when another reader holds it or none is open.

    A holder who claims again keeps the fence and gets a longer lease, so that two tabs of one reader agree.
    """
    until = now + lease
    of_case = worklist_item.c.case_id == case_id
    again = update(worklist_item).where(of_case, is_held_by(account_id, now)).values(lease_until=until)
    fresh = (
        update(worklist_item)
        .where(of_case, is_free(now))
        .values(
            state=ItemState.IN_PROGRESS.value,
            claimed_by=account_id,
            lease_until=until,
            fence=worklist_item.c.fence + 1,
        )
    )
    for attempt in (again, fresh):
        row = connection.execute(attempt.returning(worklist_item.c.id, worklist_item.c.fence)).one_or_none()
        if row is not None:
            return Claim(item_id=row.id, case_id=case_id, fence=row.fence, lease_until=until)
    return None


def claim_next_item(
    connection: Connection, *, account_id: str, specialties: Sequence[str] | None, lease: timedelta, now: datetime
) -> Claim | None:
    """Hold the first free item in reading order, or None; `specialties` None means every specialty.

    On PostgreSQL rows that a colleague is claiming at this moment are skipped rather than waited for.
    """
    query = select(worklist_item.c.case_id).where(is_free(now))
    if specialties is not None:
        query = query.where(worklist_item.c.specialty.in_(list(specialties)))
    query = query.order_by(*reading_order(now)).limit(1).with_for_update(skip_locked=True)
    case_id = connection.execute(query).scalar_one_or_none()
    if case_id is None:
        return None
    return claim_item(connection, case_id=case_id, account_id=account_id, lease=lease, now=now)


def _held(claim_case_id: str, account_id: str, fence: int, now: datetime) -> ColumnElement[bool]:
    return and_(worklist_item.c.case_id == claim_case_id, worklist_item.c.fence == fence, is_held_by(account_id, now))


def extend_claim(
    connection: Connection, *, case_id: str, account_id: str, fence: int, lease: timedelta, now: datetime
) -> datetime | None:
    """Lengthen a hold and return its new end, or None when it is no longer this reader's."""
    until = now + lease
    changed = connection.execute(
        update(worklist_item).where(_held(case_id, account_id, fence, now)).values(lease_until=until)
    )
    return until if changed.rowcount == 1 else None


def release_claim(connection: Connection, *, case_id: str, account_id: str, fence: int, now: datetime) -> bool:
    """Give an item back to the list; False when it was no longer this reader's."""
    changed = connection.execute(
        update(worklist_item)
        .where(_held(case_id, account_id, fence, now))
        .values(state=ItemState.SCHEDULED.value, claimed_by=None, lease_until=None)
    )
    return changed.rowcount == 1


def complete_claim(connection: Connection, *, case_id: str, account_id: str, fence: int, now: datetime) -> str | None:
    """Close a held item and return its id, or None when the hold had ended or passed to somebody else."""
    return connection.execute(
        update(worklist_item)
        .where(_held(case_id, account_id, fence, now))
        .values(state=ItemState.COMPLETED.value)
        .returning(worklist_item.c.id)
    ).scalar_one_or_none()


def counts_by_state(
    connection: Connection, *, account_id: str, specialties: Sequence[str] | None, now: datetime
) -> dict[str, int]:
    """How many items are open, overdue, of these specialties (None: all), held by anybody and by this account."""
    held = and_(worklist_item.c.state == ItemState.IN_PROGRESS.value, worklist_item.c.lease_until > now)
    own = literal(True) if specialties is None else worklist_item.c.specialty.in_(list(specialties))
    asked = {
        "overdue": worklist_item.c.due_at <= now,
        "specialty": own,
        "held": held,
        "mine": is_held_by(account_id, now),
    }
    sums = [func.coalesce(func.sum(case((which, 1), else_=0)), 0).label(name) for name, which in asked.items()]
    row = connection.execute(select(func.count().label("open"), *sums).where(worklist_item.c.state.in_(_OPEN))).one()
    return {name: int(value) for name, value in row._mapping.items()}  # noqa: SLF001 - the documented row view
