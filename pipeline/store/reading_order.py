"""The order in which cases are read, walked along an index: overdue first, then by priority, then by due time.

One ORDER BY over all of it would sort every open item, because what is overdue depends on the moment. So the order is cut
into stretches, one for each priority of the overdue items and then of the others, and each is a range of an index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, case, literal, literal_column, or_

from pipeline.store.tables import worklist_item

PRIORITIES = (2, 1, 0)  #: high, medium, low (UPS); no item has another one
_FIRST_BATCH, _LARGEST_BATCH = 64, 4096


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in the reading order an item stands; a page begins after one."""

    overdue: bool
    priority: int
    due_at: datetime
    item_id: str


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """The items of one priority that are overdue, or that are not."""

    overdue: bool
    priority: int

    def rank(self) -> tuple[bool, int]:
        """What stretches are ordered by."""
        return (not self.overdue, -self.priority)


STRETCHES = tuple(Stretch(overdue=overdue, priority=priority) for overdue in (True, False) for priority in PRIORITIES)


def is_open() -> ColumnElement[bool]:
    """Whether an item still asks for a read, spelt as the partial indexes spell it: they match no parameter."""
    return worklist_item.c.state.in_([literal_column("'SCHEDULED'"), literal_column("'IN_PROGRESS'")])


def reading_order(now: datetime) -> tuple[ColumnElement[Any], ...]:
    """The whole order in one ORDER BY, for sets that are small or cut by an offset anyway."""
    overdue = case((worklist_item.c.due_at <= now, 0), else_=1)
    return overdue, worklist_item.c.priority.desc(), worklist_item.c.due_at, worklist_item.c.id


def within(stretch: Stretch, specialty: str | None, now: datetime) -> ColumnElement[bool]:
    """Whether an open item belongs to a stretch and a specialty; None means every specialty."""
    return and_(_of_kind(stretch, specialty), _side(stretch, now))


def _of_kind(stretch: Stretch, specialty: str | None) -> ColumnElement[bool]:
    own = literal(True) if specialty is None else worklist_item.c.specialty == specialty
    return and_(is_open(), worklist_item.c.priority == stretch.priority, own)


def _side(stretch: Stretch, now: datetime) -> ColumnElement[bool]:
    return worklist_item.c.due_at <= now if stretch.overdue else worklist_item.c.due_at > now


def walk(
    connection: Connection,
    query: Select[Any],
    *,
    stretches: Sequence[Stretch],
    specialties: Sequence[str] | None,
    now: datetime,
    after: Place | None,
) -> Iterator[Row[Any]]:
    """Rows of `query` over open items in reading order, fetched as they are asked for; it selects id and due_at."""
    for stretch in stretches:
        start = (
            after if after is not None and stretch == Stretch(overdue=after.overdue, priority=after.priority) else None
        )
        if (
            after is not None
            and start is None
            and stretch.rank() < Stretch(overdue=after.overdue, priority=after.priority).rank()
        ):
            continue
        kinds = [None] if specialties is None else sorted(set(specialties))
        runs = [_run(connection, query.where(_of_kind(stretch, kind)), stretch, now, start) for kind in kinds]
        yield from merge(*runs, key=lambda row: (row.due_at, row.id))


def _run(
    connection: Connection, query: Select[Any], stretch: Stretch, now: datetime, after: Place | None
) -> Iterator[Row[Any]]:
    """Rows of one range of the index, in batches that grow."""
    ordered = query.order_by(worklist_item.c.due_at, worklist_item.c.id)
    last = None if after is None else (after.due_at, after.item_id)
    size = _FIRST_BATCH
    while True:
        rows = connection.execute(ordered.where(_range(stretch, now, last)).limit(size)).all()
        yield from rows
        if len(rows) < size:
            return
        last = (rows[-1].due_at, rows[-1].id)
        size = min(8 * size, _LARGEST_BATCH)


def _range(stretch: Stretch, now: datetime, last: tuple[datetime, str] | None) -> ColumnElement[bool]:
    """What comes after a row of the stretch, with one lower bound only: SQLite would start at the wrong one of two."""
    if last is None:
        return _side(stretch, now)
    due_at, item_id = last
    if not stretch.overdue and due_at <= now:  # it became overdue since its page was shown
        return _side(stretch, now)
    beyond = or_(worklist_item.c.due_at > due_at, worklist_item.c.id > item_id)
    upper = [_side(stretch, now)] if stretch.overdue else []
    return and_(worklist_item.c.due_at >= due_at, beyond, *upper)
