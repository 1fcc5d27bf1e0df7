"""What the figures are made of: arrivals, waits, loads and holds, without a patient and without a case.

Blindness holds here too. A case with a worklist item is counted by its first item's priority, which every reader sees on
the worklist anyway, and never by its decision's route: otherwise the counts before and after an arrival would tell
what the model said about it, and that an audit read is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from sqlalchemy import Connection, and_, exists, func, or_, select
from sqlalchemy import case as when

from pipeline.domain.case import ItemState, Route
from pipeline.domain.second_reads import FIRST
from pipeline.store.reading_order import is_open
from pipeline.store.room_tables import emergency
from pipeline.store.tables import account, case, decision, read, worklist_item
from pipeline.store.worklist_rows import is_read_by

_HIGH = 2


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One decided case: when, and where its study can be seen to have gone."""

    at: datetime
    place: Route


@dataclass(frozen=True, kw_only=True)
class Wait:
    """One item's wait from the worklist to the committed read, or until now while it is still open."""

    priority: int
    minutes: float
    limit_minutes: float
    is_open: bool


@dataclass(frozen=True, kw_only=True)
class ReaderLoad:
    """What one account read and holds."""

    name: str
    reads: int
    median_minutes: float | None
    held: int


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How the worklist stands at one moment."""

    open: int
    held: int
    overdue: int
    oldest_overdue_at: datetime | None
    paused: int
    offered: int
    escalated: int


def arrivals(connection: Connection, *, since: datetime, until: datetime) -> list[Arrival]:
    """Every case decided in the period, oldest first."""
    first = worklist_item.alias()
    priority = (
        select(first.c.priority)
        .where(first.c.case_id == decision.c.case_id)
        .order_by(first.c.created_at, first.c.id)
        .limit(1)
        .scalar_subquery()
    )
    listed = exists().where(worklist_item.c.case_id == decision.c.case_id)
    query = (
        select(
            decision.c.decided_at,
            priority.label("priority"),
            when((listed, None), else_=decision.c.route).label("went"),
        )
        .where(decision.c.decided_at > since, decision.c.decided_at <= until)
        .order_by(decision.c.decided_at)
    )
    return [Arrival(at=row.decided_at, place=_place(row)) for row in connection.execute(query)]


def _place(row: Any) -> Route:
    if row.priority is None:
        return Route(row.went)
    return Route.PRIORITY if row.priority == _HIGH else Route.REVIEW


def waits(connection: Connection, *, since: datetime, now: datetime) -> list[Wait]:
    """The wait for a first read of every case read in the period and of every one still open, however old.

    Later rounds are left out: they would show that a case is read again.
    """
    query = (
        select(
            worklist_item.c.priority,
            worklist_item.c.created_at,
            worklist_item.c.due_at,
            read.c.committed_at,
        )
        .outerjoin(read, read.c.item_id == worklist_item.c.id)
        .where(worklist_item.c.round == FIRST)
        .where(or_(and_(read.c.committed_at > since, read.c.committed_at <= now), is_open()))
    )
    return [_wait(row, now) for row in connection.execute(query)]


def _wait(row: Any, now: datetime) -> Wait:
    until = row.committed_at or now
    return Wait(
        priority=row.priority,
        minutes=max(0.0, _minutes(until - row.created_at)),
        limit_minutes=_minutes(row.due_at - row.created_at),
        is_open=row.committed_at is None,
    )


def _minutes(length: timedelta) -> float:
    return length.total_seconds() / 60


def loads(connection: Connection, *, since: datetime, now: datetime) -> list[ReaderLoad]:
    """Reads and holds per account that has any, most reads first."""
    minutes: dict[str, list[float]] = {}
    query = select(read.c.reader_id, read.c.opened_at, read.c.committed_at).where(
        read.c.committed_at > since, read.c.committed_at <= now
    )
    for row in connection.execute(query):
        minutes.setdefault(row.reader_id, []).append(_minutes(row.committed_at - row.opened_at))
    held = _held_by_account(connection, now)
    names = _names(connection, {*minutes, *held})
    found = [
        ReaderLoad(
            name=name,
            reads=len(minutes.get(account_id, ())),
            median_minutes=median(minutes[account_id]) if account_id in minutes else None,
            held=held.get(account_id, 0),
        )
        for account_id, name in names.items()
    ]
    return sorted(found, key=lambda load: (-load.reads, load.name))


def _held_by_account(connection: Connection, now: datetime) -> dict[str, int]:
    query = (
        select(worklist_item.c.claimed_by, func.count())
        .where(worklist_item.c.state == ItemState.IN_PROGRESS.value, worklist_item.c.lease_until > now)
        .group_by(worklist_item.c.claimed_by)
    )
    return {str(account_id): int(count) for account_id, count in connection.execute(query)}


def _names(connection: Connection, ids: set[str]) -> dict[str, str]:
    query = select(account.c.id, account.c.name).where(account.c.id.in_(sorted(ids)))
    return {row.id: row.name for row in connection.execute(query)}


def standing(connection: Connection, now: datetime, *, asking: str) -> Standing:
    """How the worklist stands now, without the cases that the asking account has read: whether others do is not told."""
    counted_in = and_(is_open(), ~is_read_by(asking))
    asked = {
        "held": and_(worklist_item.c.state == ItemState.IN_PROGRESS.value, worklist_item.c.lease_until > now),
        "overdue": worklist_item.c.due_at <= now,
        "paused": worklist_item.c.paused_until > now,
        "offered": and_(worklist_item.c.offered_to.is_not(None), worklist_item.c.offered_until > now),
        "escalated": worklist_item.c.escalated_at.is_not(None),
    }
    sums = [func.coalesce(func.sum(when((which, 1), else_=0)), 0).label(name) for name, which in asked.items()]
    row = connection.execute(select(func.count().label("open"), *sums).where(counted_in)).one()
    oldest = select(func.min(worklist_item.c.due_at)).where(counted_in, worklist_item.c.due_at <= now)
    counted = {name: int(value) for name, value in row._mapping.items()}  # noqa: SLF001 - the documented row view
    return Standing(**counted, oldest_overdue_at=connection.execute(oldest).scalar_one())


def undecided(connection: Connection) -> int:
    """How many cases wait for triage itself."""
    query = select(func.count()).select_from(case).where(case.c.state.in_(("READY", "CLAIMED")))
    return int(connection.execute(query).scalar_one())


@dataclass(frozen=True, kw_only=True)
class EmergencySeen:
    """One case that somebody opened in an emergency; the reason may name a patient."""

    name: str
    case_id: str
    reason: str
    at: datetime


def emergencies(connection: Connection, *, since: datetime, limit: int) -> list[EmergencySeen]:
    """Emergencies of the period, newest first."""
    query = (
        select(emergency, account.c.name)
        .join(account, account.c.id == emergency.c.account_id)
        .where(emergency.c.at > since)
        .order_by(emergency.c.at.desc(), emergency.c.id)
        .limit(limit)
    )
    return [
        EmergencySeen(name=row.name, case_id=row.case_id, reason=row.reason, at=row.at)
        for row in connection.execute(query)
    ]
