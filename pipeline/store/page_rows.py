"""Pages of the worklist: fifty lines after a place, equally fast at any depth, and counts that stop counting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from heapq import merge
from itertools import islice
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, String, and_, cast, exists, literal, or_, select, tuple_

from pipeline.store.account_rows import Account, May
from pipeline.store.columns import UtcTime
from pipeline.store.exposure_rows import Exposure
from pipeline.store.line_rows import (
    LARGEST_COUNT,
    UNASKED,
    Line,
    Show,
    count_up_to,
    item_lines,
    line_of,
    lines_of_items,
    unread_rows,
)
from pipeline.store.reading_order import PRIORITIES, STRETCHES, Place, Stretch, is_open, reading_order, walk
from pipeline.store.room_tables import exposure
from pipeline.store.tables import case, read, worklist_item
from pipeline.store.worklist_rows import (
    is_being_read,
    is_free,
    is_handed_to,
    is_held_by,
    is_open_to,
    is_paused,
    is_read_by,
)

PAGE = 50  #: lines
LOOKED_AT: Final = 5_000  #: items that one page goes through for a filter that few of them meet


class ItemStatus(StrEnum):
    """What state of an open item is asked for."""

    WAITING = "waiting"  #: In nobody's hands, and not put aside.
    BEING_READ = "being_read"  #: Held by a reader.
    PAUSED = "paused"  #: Put aside for a while.
    OVERDUE = "overdue"  #: Its longest wait has passed.


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What open items are asked for beside `Show`; None asks for all."""

    specialty: str | None = None
    priority: int | None = None
    protocol: str | None = None
    reason: str | None = None
    status: ItemStatus | None = None


@dataclass(frozen=True, kw_only=True)
class Before:
    """Where a list that runs from the newest backwards goes on."""

    at: datetime
    id: str


Cursor = Place | Before


@dataclass(frozen=True, kw_only=True)
class Page:
    """Lines, and where the next page begins; None at the end."""

    lines: tuple[Line, ...]
    after: Cursor | None = None


def open_page(
    connection: Connection, *, show: Show, filters: Filters, asking: Account, now: datetime, after: Place | None
) -> Page:
    """Open items in reading order; a page that a filter leaves short still says where to look on."""
    if show is Show.MINE or filters.status in (ItemStatus.BEING_READ, ItemStatus.PAUSED):
        return _few(connection, show=show, filters=filters, asking=asking, now=now)
    specialties = _specialties(show, filters, asking)
    fits = and_(*_conditions(show, filters, asking, now))
    query = select(worklist_item.c.id, worklist_item.c.due_at, worklist_item.c.priority, fits.label("fits"))
    stretches = [stretch for stretch in STRETCHES if _is_asked(stretch, filters)]
    found: list[Row[Any]] = []
    looked, goes_on = None, False
    rows = walk(connection, query, stretches=stretches, specialties=specialties, now=now, after=after)
    for number, row in enumerate(rows):
        if (len(found) == PAGE and row.fits) or number >= LOOKED_AT:
            goes_on = True
            break
        looked = row
        if row.fits:
            found.append(row)
    last = found[-1] if len(found) == PAGE else looked
    lines = lines_of_items(connection, [row.id for row in found])
    return Page(lines=tuple(lines), after=_place(last, now) if goes_on and last is not None else None)


def _place(row: Row[Any], now: datetime) -> Place:
    return Place(overdue=row.due_at <= now, priority=row.priority, due_at=row.due_at, item_id=row.id)


def _is_asked(stretch: Stretch, filters: Filters) -> bool:
    return filters.priority in (None, stretch.priority) and (
        stretch.overdue or filters.status is not ItemStatus.OVERDUE
    )


def _specialties(show: Show, filters: Filters, asking: Account) -> Sequence[str] | None:
    own = asking.claimable if show is Show.SPECIALTY else None
    if filters.specialty is None:
        return own
    return [filters.specialty] if own is None or filters.specialty in own else []


def _conditions(show: Show, filters: Filters, asking: Account, now: datetime) -> list[ColumnElement[bool]]:
    blind = is_open_to(asking.id, may_adjudicate=asking.may(May.ADJUDICATE))
    asked = [blind if show is Show.SPECIALTY else ~is_read_by(asking.id)]
    if filters.protocol is not None:
        asked.append(exists().where(case.c.id == worklist_item.c.case_id, case.c.protocol == filters.protocol))
    if filters.reason is not None:
        asked.append(cast(worklist_item.c.reasons, String).contains(f'"{filters.reason}"', autoescape=True))
    if filters.status is ItemStatus.WAITING:
        asked.append(and_(is_free(now), ~is_paused(now)))
    return asked


def _few(connection: Connection, *, show: Show, filters: Filters, asking: Account, now: datetime) -> Page:
    """Sets that are small by nature, found by indexes of their own and not cut into pages."""
    asked = [is_open(), *_conditions(show, filters, asking, now)]
    if show is Show.MINE:
        asked.append(or_(is_held_by(asking.id, now), is_handed_to(asking.id, now)))
    if filters.status is ItemStatus.BEING_READ:
        asked.append(is_being_read(now))
    if filters.status is ItemStatus.PAUSED:  # ids first, or SQLite goes through every open item instead of the few
        aside = select(worklist_item.c.id).where(is_paused(now)).limit(LARGEST_COUNT)
        paused = list(connection.execute(aside).scalars())
        if not paused:
            return Page(lines=())
        asked.append(worklist_item.c.id.in_(paused))
    if filters.priority is not None:
        asked.append(worklist_item.c.priority == filters.priority)
    specialties = _specialties(show, filters, asking)
    if specialties is not None:
        asked.append(worklist_item.c.specialty.in_(list(specialties)))
    query = select(worklist_item.c.id).where(*asked).order_by(*reading_order(now)).limit(LARGEST_COUNT)
    ids = list(connection.execute(query).scalars())
    return Page(lines=tuple(lines_of_items(connection, ids)))


def done_page(connection: Connection, *, account_id: str, after: Before | None) -> Page:
    """This reader's committed reads, newest first."""
    query = (
        item_lines()
        .add_columns(read.c.committed_at.label("read_at"), read.c.id.label("read_id"))
        .join(read, read.c.item_id == worklist_item.c.id)
        .where(read.c.reader_id == account_id)
        .order_by(read.c.committed_at.desc(), read.c.id.desc())
    )
    if after is not None:
        query = query.where(_is_before(read.c.committed_at, read.c.id, after))
    rows = connection.execute(query.limit(PAGE + 1)).all()
    return _cut(rows, lambda row: Before(at=row.read_at, id=row.read_id))


def _is_before(at: ColumnElement[Any], row_id: ColumnElement[Any], here: Before) -> ColumnElement[bool]:
    return tuple_(at, row_id) < tuple_(literal(here.at, UtcTime), literal(here.id))


def _cut(rows: Sequence[Row[Any]], place: Any) -> Page:
    lines = tuple(line_of(row) for row in rows[:PAGE])
    return Page(lines=lines, after=place(rows[PAGE - 1]) if len(rows) > PAGE else None)


def unread_page(connection: Connection, *, after: Before | None) -> Page:
    """Cases decided without asking for a read, newest first; one that has or had a worklist item is never here."""
    here = None if after is None else (after.at, after.id)
    runs = [unread_rows(connection, route, after=here, limit=PAGE + 1) for route in UNASKED]
    rows = list(islice(merge(*runs, key=lambda row: (row.created_at, row.case_id), reverse=True), PAGE + 1))
    return _cut(rows, lambda row: Before(at=row.created_at, id=row.case_id))


def not_shown_before(connection: Connection, *, case_ids: Sequence[str], account_id: str) -> list[str]:
    """Those of the cases of which it is not written down yet that this account was shown their route."""
    of_these = and_(exposure.c.case_id.in_(list(case_ids)), exposure.c.account_id == account_id)
    known = select(exposure.c.case_id).where(of_these, exposure.c.kind == Exposure.ROUTE.value)
    noted = set(connection.execute(known).scalars())
    return [case_id for case_id in case_ids if case_id not in noted]


def counts(connection: Connection, *, asking: Account, now: datetime) -> dict[str, int]:
    """How many items are open, overdue, claimable by this account, held by anybody and by this account.

    Each count stops at `LARGEST_COUNT` and one, so that none goes through a million items. None counts what this account has
    read: a number that does not fall would tell of a second read.
    """
    asked: dict[str, list[ColumnElement[bool]]] = {
        "open": [],
        "overdue": [worklist_item.c.priority.in_(PRIORITIES), worklist_item.c.due_at <= now],
        "specialty": _conditions(Show.SPECIALTY, Filters(), asking, now),
        "held": [is_being_read(now)],
        "mine": [or_(is_held_by(asking.id, now), is_handed_to(asking.id, now))],
    }
    if asking.claimable is not None:
        asked["specialty"].append(worklist_item.c.specialty.in_(list(asking.claimable)))
    items = select(literal(1)).select_from(worklist_item).where(is_open(), ~is_read_by(asking.id))
    bounded = {name: count_up_to(items.where(*conditions)).label(name) for name, conditions in asked.items()}
    row = connection.execute(select(*bounded.values())).one()
    return {name: int(value) for name, value in row._mapping.items()}  # noqa: SLF001 - the documented row view
