"""Lines of the worklist: what a line tells, and the queries that fill it in for items and for cases without one.

No query here selects a decision's route or reasons for a case that has or ever had a worklist item, and none a round: a
second read looks as the first did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, ScalarSelect, Select, and_, exists, func, literal, select, tuple_

from pipeline.domain.case import CaseState, ItemState, Route
from pipeline.store.columns import UtcTime
from pipeline.store.tables import account, case, decision, identity, instance, revision_instance, worklist_item

PERSON = (
    "patient_id",
    "issuer_of_patient_id",
    "patient_name",
    "patient_birth_date",
    "patient_sex",
    "accession_number",
    "study_date",
)
LARGEST_COUNT: Final = 1_000  #: what counts stop at; one more means "more than that"
UNASKED = (Route.ROUTINE, Route.OUT_OF_SCOPE)  #: routes that ask for no read
SOON = 0.8  #: share of its longest wait after which an item is marked


class Show(StrEnum):
    """Which lines of the worklist are asked for."""

    MINE = "mine"  #: Held by this reader now, or handed to this reader.
    SPECIALTY = "specialty"  #: Open items that this reader may claim.
    ALL = "all"  #: Every open item, but those whose case this reader has read.
    DONE = "done"  #: Reads this reader has committed, newest first.
    UNREAD = "unread"  #: Decided without asking for a read: ROUTINE and OUT_OF_SCOPE, with their reasons.


class Urgency(StrEnum):
    """How much of its longest wait an item has used."""

    OVERDUE = "overdue"  #: All of it.
    SOON = "soon"  #: More than four fifths.
    CALM = "calm"  #: Less.


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
    paused_until: datetime | None = None
    pause_reason: str | None = None
    offered_to: str | None = None
    offered_to_name: str | None = None
    offered_by_name: str | None = None
    offered_until: datetime | None = None
    escalated_at: datetime | None = None
    route: str | None = None
    read_at: datetime | None = None

    def urgency(self, now: datetime) -> Urgency:
        """How near this line is to its longest wait; a line without one is calm."""
        if self.due_at is None:
            return Urgency.CALM
        if self.due_at <= now:
            return Urgency.OVERDUE
        return Urgency.SOON if now - self.created_at > SOON * (self.due_at - self.created_at) else Urgency.CALM

    def is_held(self, now: datetime) -> bool:
        """Whether somebody reads it at `now`."""
        return self.state == ItemState.IN_PROGRESS and self.lease_until is not None and self.lease_until > now

    def is_paused(self, now: datetime) -> bool:
        """Whether it is put aside at `now`."""
        return self.paused_until is not None and self.paused_until > now

    def is_handed_over(self, now: datetime) -> bool:
        """Whether it is reserved for one colleague at `now`."""
        return self.offered_until is not None and self.offered_until > now


def header_of_revision() -> Any:
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
    colleague, giver = account.alias("colleague"), account.alias("giver")
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
            worklist_item.c.paused_until,
            worklist_item.c.pause_reason,
            worklist_item.c.offered_to,
            worklist_item.c.offered_until,
            worklist_item.c.escalated_at,
            colleague.c.name.label("offered_to_name"),
            giver.c.name.label("offered_by_name"),
            account.c.name.label("holder"),
            header_of_revision().label("header"),
            *(identity.c[name] for name in PERSON),
        )
        .join(case, case.c.id == worklist_item.c.case_id)
        .outerjoin(identity, identity.c.study_id == case.c.study_id)
        .outerjoin(account, account.c.id == worklist_item.c.claimed_by)
        .outerjoin(colleague, colleague.c.id == worklist_item.c.offered_to)
        .outerjoin(giver, giver.c.id == worklist_item.c.offered_by)
    )


def line_of(row: Row[Any]) -> Line:
    """One row of `item_lines`, or of another query that selects a line's columns, as a value."""
    values = row._mapping  # noqa: SLF001 - the documented row view
    known = {name: values[name] for name in Line.__dataclass_fields__ if name in values}
    known["reasons"] = tuple(values.get("reasons") or ())
    known["header"] = values["header"] or {}
    return Line(**known, person={name: values[name] for name in PERSON})


def lines_of_items(connection: Connection, item_ids: Sequence[str]) -> list[Line]:
    """The lines of these items, in the order of the ids."""
    rows = connection.execute(item_lines().where(worklist_item.c.id.in_(list(item_ids))))
    found = {line.item_id: line for line in map(line_of, rows)}
    return [found[item_id] for item_id in item_ids if item_id in found]


def _never_asked() -> ColumnElement[bool]:
    asked = exists().where(worklist_item.c.case_id == case.c.id)
    return and_(case.c.state == CaseState.DECIDED.value, ~asked, decision.c.audit.is_(False))


def unread_rows(
    connection: Connection, route: Route, *, after: tuple[datetime, str] | None, limit: int
) -> Sequence[Row[Any]]:
    """Cases of one route decided without asking for a read, newest first, that stand after a moment and a case's id."""
    query = (
        select(
            case.c.id.label("case_id"),
            case.c.protocol,
            decision.c.decided_at.label("created_at"),
            decision.c.route,
            decision.c.reasons,
            header_of_revision().label("header"),
            *(identity.c[name] for name in PERSON),
        )
        .join(decision, decision.c.case_id == case.c.id)
        .outerjoin(identity, identity.c.study_id == case.c.study_id)
        .where(decision.c.route == route.value, _never_asked())
        .order_by(decision.c.decided_at.desc(), decision.c.case_id.desc())
    )
    if after is not None:
        here = tuple_(literal(after[0], UtcTime), literal(after[1]))
        query = query.where(tuple_(decision.c.decided_at, decision.c.case_id) < here)
    return connection.execute(query.limit(limit)).all()


def count_unread(connection: Connection) -> int:
    """How many cases were decided without asking for a read, up to `LARGEST_COUNT` and one."""
    query = select(literal(1)).select_from(case).join(decision, decision.c.case_id == case.c.id)
    of_these = query.where(decision.c.route.in_([route.value for route in UNASKED]), _never_asked())
    return int(connection.execute(select(count_up_to(of_these))).scalar_one())


def count_up_to(query: Select[Any]) -> ScalarSelect[int]:
    """How many rows a query has, up to `LARGEST_COUNT` and one, as a scalar subquery."""
    bounded = query.limit(LARGEST_COUNT + 1).subquery()
    return select(func.count()).select_from(bounded).scalar_subquery()
