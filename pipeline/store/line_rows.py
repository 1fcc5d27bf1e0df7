"""Lines of the worklist: open items in reading order, a reader's own reads, and cases decided without a read.

No query here selects a decision's route or reasons for a case that has or ever had a worklist item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, exists, func, select

from pipeline.domain.case import CaseState, ItemState
from pipeline.store.tables import (
    account,
    case,
    decision,
    identity,
    instance,
    read,
    revision_instance,
    worklist_item,
)
from pipeline.store.worklist_rows import is_held_by, reading_order

PERSON = (
    "patient_id",
    "issuer_of_patient_id",
    "patient_name",
    "patient_birth_date",
    "patient_sex",
    "accession_number",
    "study_date",
)


class Show(StrEnum):
    """Which lines of the worklist are asked for."""

    MINE = "mine"  #: Held by this reader now.
    SPECIALTY = "specialty"  #: Open items of the specialties this reader may claim.
    ALL = "all"  #: Every open item.
    DONE = "done"  #: Reads this reader has committed, newest first.
    UNREAD = "unread"  #: Decided without asking for a read: ROUTINE and OUT_OF_SCOPE, with their reasons.


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the worklist; `route` stands only where no read was ever asked for."""

    case_id: str
    protocol: str
    created_at: datetime
    reasons: tuple[str, ...]
    person: Mapping[str, str | None]
    header: Mapping[str, Any]
    item_id: str | None = None
    state: str | None = None
    specialty: str | None = None
    priority: int | None = None
    due_at: datetime | None = None
    holder_id: str | None = None
    holder: str | None = None
    lease_until: datetime | None = None
    route: str | None = None
    read_at: datetime | None = None


def _header_of_revision() -> Any:
    """The header of a revision's first instance, as a scalar subquery."""
    first = (
        select(func.min(instance.c.sequence))
        .join(revision_instance, revision_instance.c.instance_id == instance.c.id)
        .where(revision_instance.c.revision_id == case.c.revision_id)
        .correlate(case)
        .scalar_subquery()
    )
    return select(instance.c.header).where(instance.c.sequence == first).correlate(case).scalar_subquery()


def item_lines() -> Select[Any]:
    """The query behind every line that has a worklist item."""
    person = [identity.c[name] for name in PERSON]
    return (
        select(
            case.c.id.label("case_id"),
            case.c.protocol,
            worklist_item.c.id.label("item_id"),
            worklist_item.c.created_at,
            worklist_item.c.state,
            worklist_item.c.specialty,
            worklist_item.c.priority,
            worklist_item.c.reasons,
            worklist_item.c.due_at,
            worklist_item.c.claimed_by.label("holder_id"),
            worklist_item.c.lease_until,
            account.c.name.label("holder"),
            _header_of_revision().label("header"),
            *person,
        )
        .join(case, case.c.id == worklist_item.c.case_id)
        .outerjoin(identity, identity.c.study_id == case.c.study_id)
        .outerjoin(account, account.c.id == worklist_item.c.claimed_by)
    )


def line_of(row: Row[Any]) -> Line:
    """One row of `item_lines` or `unread_lines` as a value."""
    values = row._mapping  # noqa: SLF001 - the documented row view
    known = {name: values[name] for name in Line.__dataclass_fields__ if name in values}
    known["reasons"] = tuple(values["reasons"])
    known["header"] = values["header"] or {}
    return Line(**known, person={name: values[name] for name in PERSON})


def is_open() -> ColumnElement[bool]:
    """Whether an item still asks for a read."""
    return worklist_item.c.state.in_((ItemState.SCHEDULED.value, ItemState.IN_PROGRESS.value))


def open_lines(
    connection: Connection,
    *,
    show: Show,
    account_id: str,
    specialties: Sequence[str] | None,
    now: datetime,
    limit: int,
) -> list[Line]:
    """Open items in reading order; `specialties` None means every specialty."""
    query = item_lines().where(is_open())
    if show is Show.MINE:
        query = query.where(is_held_by(account_id, now))
    elif show is Show.SPECIALTY and specialties is not None:
        query = query.where(worklist_item.c.specialty.in_(list(specialties)))
    return [line_of(row) for row in connection.execute(query.order_by(*reading_order(now)).limit(limit))]


def done_lines(connection: Connection, *, account_id: str, limit: int) -> list[Line]:
    """This reader's committed reads, newest first."""
    query = (
        item_lines()
        .add_columns(read.c.committed_at.label("read_at"))
        .join(read, read.c.item_id == worklist_item.c.id)
        .where(read.c.reader_id == account_id)
        .order_by(read.c.committed_at.desc())
        .limit(limit)
    )
    return [line_of(row) for row in connection.execute(query)]


def _never_asked() -> ColumnElement[bool]:
    asked = exists().where(worklist_item.c.case_id == case.c.id)
    return and_(case.c.state == CaseState.DECIDED.value, ~asked, decision.c.audit.is_(False))


def unread_lines(connection: Connection, *, limit: int) -> list[Line]:
    """Cases decided without asking for a read, newest first; one that has or had a worklist item is never here."""
    query = (
        select(
            case.c.id.label("case_id"),
            case.c.protocol,
            decision.c.decided_at.label("created_at"),
            decision.c.route,
            decision.c.reasons,
            _header_of_revision().label("header"),
            *(identity.c[name] for name in PERSON),
        )
        .join(decision, decision.c.case_id == case.c.id)
        .outerjoin(identity, identity.c.study_id == case.c.study_id)
        .where(_never_asked())
        .order_by(decision.c.decided_at.desc(), case.c.id)
        .limit(limit)
    )
    return [line_of(row) for row in connection.execute(query)]


def count_unread(connection: Connection) -> int:
    """How many cases were decided without asking for a read."""
    query = select(func.count()).select_from(case).join(decision, decision.c.case_id == case.c.id).where(_never_asked())
    return int(connection.execute(query).scalar_one())
