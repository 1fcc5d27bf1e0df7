"""Rows of the worklist: what waits for a reader, who holds it, and until when.

A claim is a lease with a fencing token: `fence` grows with every new holder, and every later write names it. An item
whose lease has ended is free again without any clean-up run, because every query compares `lease_until` with `now`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Update,
    and_,
    exists,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from pipeline.domain.case import ItemState
from pipeline.store.exposure_rows import Exposure
from pipeline.store.reading_order import PRIORITIES, STRETCHES, Stretch, is_open, within
from pipeline.store.room_tables import exposure
from pipeline.store.sequences import new_id
from pipeline.store.tables import case, read, worklist_item

REQUESTED = "REQUESTED"  #: the reason of an item that a colleague and not the model asked for
LAST_ROUND = 3  #: an adjudication
_SECOND = 2  #: where a read made in knowledge of an earlier one is none
_TELLS_NOTHING_NEW = (Exposure.IMAGES.value, Exposure.ROUTE.value)
_NOT_ASIDE = dict.fromkeys(("paused_until", "pause_reason", "offered_to", "offered_until", "offered_by"))
_SCHEDULED: ColumnElement[str] = literal_column("'SCHEDULED'")
_IN_PROGRESS: ColumnElement[str] = literal_column(
    "'IN_PROGRESS'"
)  # spelt out, because partial indexes match no parameter


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
    round_: int = 1,
    fence: int = 0,
    escalated_at: datetime | None = None,
) -> str:
    """Put a case on the worklist and return the item's id; the database refuses a second open item of one case.

    Raises ValueError for a priority that is none, because no reader would ever be shown such an item.
    """
    if priority not in PRIORITIES:
        raise ValueError(f"an item of priority {priority}; use one of {PRIORITIES}")
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
            fence=fence,
            escalated_at=escalated_at,
            round=round_,
        )
    )
    return item_id


def cancel_open_items(connection: Connection, *, case_id: str, now: datetime) -> int:
    """Take a superseded case off the worklist, also out of a reader's hands, and return how many items that was."""
    changed = connection.execute(
        update(worklist_item)
        .where(worklist_item.c.case_id == case_id, is_open())
        .values(state=ItemState.CANCELED.value, fence=worklist_item.c.fence + 1, lease_until=None, ended_at=now)
    )
    return changed.rowcount


def was_asked_for(connection: Connection, case_id: str) -> bool:
    """Whether a colleague asked for a read of an earlier revision of this case and never got it."""
    earlier = case.alias()
    query = (
        select(worklist_item.c.reasons)
        .join(earlier, earlier.c.id == worklist_item.c.case_id)
        .join(case, (case.c.study_id == earlier.c.study_id) & (case.c.protocol == earlier.c.protocol))
        .where(case.c.id == case_id, earlier.c.id != case_id, worklist_item.c.state == ItemState.CANCELED.value)
    )
    return any(REQUESTED in reasons for reasons in connection.execute(query).scalars())


def is_free(now: datetime) -> ColumnElement[bool]:
    """Whether an item is in nobody's hands at `now`: scheduled, or its holder's lease has ended."""
    ended = and_(worklist_item.c.state == _IN_PROGRESS, worklist_item.c.lease_until <= now)
    return or_(worklist_item.c.state == _SCHEDULED, ended)


def is_being_read(now: datetime) -> ColumnElement[bool]:
    """Whether an item is in somebody's hands at `now`."""
    return and_(worklist_item.c.state == _IN_PROGRESS, worklist_item.c.lease_until > now)


def is_held_by(account_id: str, now: datetime) -> ColumnElement[bool]:
    """Whether an item is held by this account at `now`."""
    return and_(is_being_read(now), worklist_item.c.claimed_by == account_id)


def is_paused(now: datetime) -> ColumnElement[bool]:
    """Whether an item is put aside at `now`."""
    return and_(worklist_item.c.paused_until.is_not(None), worklist_item.c.paused_until > now)


def is_handed_to(account_id: str, now: datetime) -> ColumnElement[bool]:
    """Whether an item is reserved at `now` for this account."""
    return and_(worklist_item.c.offered_to == account_id, worklist_item.c.offered_until > now)


def _has_read(account_id: ColumnElement[str] | str) -> ColumnElement[bool]:
    return exists().where(read.c.case_id == worklist_item.c.case_id, read.c.reader_id == account_id)


def is_read_by(account_id: ColumnElement[str] | str) -> ColumnElement[bool]:
    """Whether this account has committed a read of the item's case, in whatever round."""
    return _has_read(account_id)


def _is_reserved_for_another(account_id: str, now: datetime) -> ColumnElement[bool]:
    """Whether take-next leaves the item to a colleague; who asks for this very case may have it all the same.

    Whether the colleague may still read it is not asked: the answer would tell who has read the case.
    """
    return and_(
        worklist_item.c.offered_until.is_not(None),
        worklist_item.c.offered_until > now,
        worklist_item.c.offered_to != account_id,
    )


def is_open_to(account_id: ColumnElement[str] | str, *, may_adjudicate: bool) -> ColumnElement[bool]:
    """Whether this account is blind enough for the item: it has not read the case, nor seen what the model or others say.

    An adjudication is for those who may decide it, and they may know what the others read. That the model asked for no
    read is known to everybody who reads at a colleague's request; it stays in the log of what was seen.
    """
    seen = exists().where(
        exposure.c.case_id == worklist_item.c.case_id,
        exposure.c.account_id == account_id,
        exposure.c.kind.not_in(_TELLS_NOTHING_NEW),
        or_(exposure.c.kind != Exposure.READS.value, worklist_item.c.round < LAST_ROUND),
    )
    blind = and_(~is_read_by(account_id), ~seen, or_(worklist_item.c.round != _SECOND, ~_knows_an_earlier(account_id)))
    return blind if may_adjudicate else and_(worklist_item.c.round < LAST_ROUND, blind)


def _knows_an_earlier(account_id: ColumnElement[str] | str) -> ColumnElement[bool]:
    """Whether this account was shown the answer to, or others' reads of, another revision of the item's study."""
    this, other = case.alias(), case.alias()
    return exists().where(
        this.c.id == worklist_item.c.case_id,
        other.c.study_id == this.c.study_id,
        other.c.protocol == this.c.protocol,
        exposure.c.case_id == other.c.id,
        exposure.c.account_id == account_id,
        exposure.c.kind.not_in(_TELLS_NOTHING_NEW),
    )


def _is_claimable(account_id: str, now: datetime, *, may_adjudicate: bool) -> ColumnElement[bool]:
    own = is_open_to(account_id, may_adjudicate=may_adjudicate)
    return and_(is_free(now), own)


def claim_item(
    connection: Connection,
    *,
    case_id: str,
    account_id: str,
    lease: timedelta,
    now: datetime,
    may_adjudicate: bool = False,
) -> Claim | None:
    """Hold the open item of a case, or None when another reader holds it, none is open or it is not for this account.

    A holder who claims again keeps the fence and gets a longer lease, so that two tabs of one reader agree.
    """
    mine = select(worklist_item.c.id).where(worklist_item.c.case_id == case_id, is_open())
    connection.execute(mine.with_for_update()).all()  # what is asked below is then asked of what is true now
    again = (
        update(worklist_item)
        .where(worklist_item.c.case_id == case_id, is_open(), is_held_by(account_id, now))
        .values(lease_until=now + lease)
    )
    return _claimed(connection, again, case_id, now + lease) or _take_free(
        connection, case_id=case_id, account_id=account_id, lease=lease, now=now, may_adjudicate=may_adjudicate
    )


def _take_free(
    connection: Connection, *, case_id: str, account_id: str, lease: timedelta, now: datetime, may_adjudicate: bool
) -> Claim | None:
    fresh = (
        update(worklist_item)
        .where(worklist_item.c.case_id == case_id, is_open())
        .where(_is_claimable(account_id, now, may_adjudicate=may_adjudicate))
        .values(
            state=ItemState.IN_PROGRESS.value,
            claimed_by=account_id,
            lease_until=now + lease,
            fence=worklist_item.c.fence + 1,
            **_NOT_ASIDE,
        )
    )
    return _claimed(connection, fresh, case_id, now + lease)


def _claimed(connection: Connection, attempt: Update, case_id: str, until: datetime) -> Claim | None:
    row = connection.execute(attempt.returning(worklist_item.c.id, worklist_item.c.fence)).one_or_none()
    return None if row is None else Claim(item_id=row.id, case_id=case_id, fence=row.fence, lease_until=until)


def claim_next_item(
    connection: Connection,
    *,
    account_id: str,
    specialties: Sequence[str] | None,
    lease: timedelta,
    now: datetime,
    may_adjudicate: bool = False,
) -> Claim | None:
    """Hold the first free item in reading order, or None; `specialties` None means every specialty.

    What was handed to this account comes first, what is put aside waits. On PostgreSQL rows that a colleague is claiming
    at this moment are skipped rather than waited for.
    """
    waits = or_(is_paused(now), _is_reserved_for_another(account_id, now))
    claimable = and_(_is_claimable(account_id, now, may_adjudicate=may_adjudicate), ~waits)
    query = select(worklist_item.c.case_id).where(claimable).limit(1)
    case_id = _first_handed(connection, query, account_id, now) or _first_waiting(connection, query, specialties, now)
    if case_id is None:
        return None
    return _take_free(
        connection, case_id=case_id, account_id=account_id, lease=lease, now=now, may_adjudicate=may_adjudicate
    )


def _first_handed(connection: Connection, query: Select[tuple[str]], account_id: str, now: datetime) -> str | None:
    handed = query.where(is_open(), is_handed_to(account_id, now)).order_by(worklist_item.c.due_at)
    return connection.execute(handed.with_for_update(skip_locked=True)).scalar_one_or_none()


def _first_waiting(
    connection: Connection, query: Select[tuple[str]], specialties: Sequence[str] | None, now: datetime
) -> str | None:
    for stretch in STRETCHES:
        for kind in _by_first_due(connection, query, stretch, specialties, now):
            first = query.where(within(stretch, kind, now)).order_by(worklist_item.c.due_at, worklist_item.c.id)
            case_id = connection.execute(first.with_for_update(skip_locked=True)).scalar_one_or_none()
            if case_id is not None:
                return case_id
    return None


def _by_first_due(
    connection: Connection,
    query: Select[tuple[str]],
    stretch: Stretch,
    specialties: Sequence[str] | None,
    now: datetime,
) -> list[str | None]:
    """The specialties that have a claimable item in this stretch, the one with the earliest due item first."""
    if specialties is None or len(specialties) == 1:
        return [None] if specialties is None else list(specialties)
    firsts = []
    for kind in specialties:
        due = query.with_only_columns(worklist_item.c.due_at, worklist_item.c.id).where(within(stretch, kind, now))
        row = connection.execute(due.order_by(worklist_item.c.due_at, worklist_item.c.id)).first()
        if row is not None:
            firsts.append((row.due_at, row.id, kind))
    return [kind for _, _, kind in sorted(firsts)]


def held_by(case_id: str, account_id: str, fence: int, now: datetime) -> ColumnElement[bool]:
    """Whether this account holds the case at `now` under this very fence."""
    return and_(worklist_item.c.case_id == case_id, worklist_item.c.fence == fence, is_held_by(account_id, now))


def extend_claim(
    connection: Connection, *, case_id: str, account_id: str, fence: int, lease: timedelta, now: datetime
) -> datetime | None:
    """Lengthen a hold and return its new end, or None when it is no longer this reader's."""
    until = now + lease
    changed = connection.execute(
        update(worklist_item).where(held_by(case_id, account_id, fence, now)).values(lease_until=until)
    )
    return until if changed.rowcount == 1 else None


def release_claim(connection: Connection, *, case_id: str, account_id: str, fence: int, now: datetime) -> bool:
    """Give an item back to the list; False when it was no longer this reader's."""
    changed = connection.execute(
        update(worklist_item)
        .where(held_by(case_id, account_id, fence, now))
        .values(state=ItemState.SCHEDULED.value, claimed_by=None, lease_until=None)
    )
    return changed.rowcount == 1


def complete_claim(connection: Connection, *, case_id: str, account_id: str, fence: int, now: datetime) -> str | None:
    """Close a held item and return its id, or None when the hold had ended or passed to somebody else."""
    return connection.execute(
        update(worklist_item)
        .where(held_by(case_id, account_id, fence, now))
        .values(state=ItemState.COMPLETED.value, ended_at=now)
        .returning(worklist_item.c.id)
    ).scalar_one_or_none()
