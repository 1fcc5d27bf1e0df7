"""Everything that happened to one case, from the audit trail and from the rows that have no event of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, exists, func, or_, select

from pipeline.store import audit_rows
from pipeline.store.door_tables import delivery
from pipeline.store.room_tables import emergency, exposure
from pipeline.store.tables import (
    account,
    audit_event,
    case,
    decision,
    instance,
    outbox,
    read,
    study_revision,
    worklist_item,
)

MOST_EVENTS = 2000


@dataclass(frozen=True, kw_only=True)
class Happened:
    """One thing that happened; `number` is its place in the audit trail, None where a row itself is the evidence."""

    at: datetime
    actor: str
    event: str
    payload: Mapping[str, Any]
    number: int | None = None


@dataclass(frozen=True, kw_only=True)
class Trail:
    """Whether the shown events are as they were written: how many were checked, and the numbers of those that changed."""

    checked: int
    newest: int
    broken: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class CaseKey:
    """What a case hangs on."""

    case_id: str
    study_id: str
    revision_id: str
    protocol: str


def case_key(connection: Connection, case_id: str) -> CaseKey | None:
    """The study and revision of a case, or None when there is no such case."""
    row = connection.execute(select(case).where(case.c.id == case_id)).one_or_none()
    if row is None:
        return None
    return CaseKey(case_id=row.id, study_id=row.study_id, revision_id=row.revision_id, protocol=row.protocol)


def is_revealed(connection: Connection, *, case_id: str, account_id: str) -> bool:
    """Whether this person has committed a read of the case and was shown the model's answer."""
    own = exists().where(
        read.c.case_id == case_id,
        read.c.reader_id == account_id,
        read.c.revealed_at.is_not(None),
        read.c.revealed_at >= read.c.committed_at,
    )
    return bool(connection.execute(select(own)).scalar_one())


def holds(connection: Connection, *, case_id: str, account_id: str, now: datetime) -> bool:
    """Whether this person holds the case, or another revision's of its study, for reading now."""
    study = select(case.c.study_id).where(case.c.id == case_id).scalar_subquery()
    held = exists().where(
        worklist_item.c.case_id.in_(select(case.c.id).where(case.c.study_id == study)),
        worklist_item.c.state == "IN_PROGRESS",
        worklist_item.c.claimed_by == account_id,
        worklist_item.c.lease_until > now,
    )
    return bool(connection.execute(select(held)).scalar_one())


def events(connection: Connection, key: CaseKey) -> tuple[list[Happened], Trail]:
    """The audit events of a case and of its study, oldest first, each checked against its own hash and its neighbour's."""
    of_case = audit_event.c.case_id == key.case_id
    of_study = and_(audit_event.c.study_id == key.study_id, audit_event.c.case_id.is_(None))
    query = select(audit_event).where(or_(of_case, of_study)).order_by(audit_event.c.sequence).limit(MOST_EVENTS)
    rows = connection.execute(query).mappings().all()
    before = _hashes_before(connection, [row["sequence"] for row in rows])
    broken = tuple(
        row["sequence"] for row in rows if not audit_rows.is_whole(row, previous=before.get(row["sequence"] - 1))
    )
    trail = Trail(checked=len(rows), newest=audit_rows.head(connection).sequence, broken=broken)
    return [_happened(row) for row in rows], trail


def _hashes_before(connection: Connection, numbers: list[int]) -> dict[int, str]:
    wanted = [number - 1 for number in numbers if number > 1]
    query = select(audit_event.c.sequence, audit_event.c.hash).where(audit_event.c.sequence.in_(wanted))
    return {row.sequence: row.hash for row in connection.execute(query)} | {0: audit_rows.GENESIS}


def _happened(row: Mapping[Any, Any]) -> Happened:
    return Happened(
        at=row["at"],
        actor=row["actor"],
        event=row["event"],
        payload=json.loads(row["payload"]),
        number=row["sequence"],
    )


def received(connection: Connection, key: CaseKey) -> list[Happened]:
    """When the first and the last image of the study came, and through which doors."""
    query = (
        select(
            instance.c.source,
            func.count().label("images"),
            func.min(instance.c.received_at).label("first"),
            func.max(instance.c.received_at).label("last"),
        )
        .where(instance.c.study_id == key.study_id, instance.c.verdict == "accepted")
        .group_by(instance.c.source)
    )
    return [
        Happened(
            at=row.first, actor=row.source, event="images_received", payload={"images": row.images, "last": row.last}
        )
        for row in connection.execute(query)
    ]


def revisions(connection: Connection, key: CaseKey) -> list[Happened]:
    """When each revision of the study was sealed; the case belongs to one of them."""
    query = select(study_revision).where(study_revision.c.study_id == key.study_id).order_by(study_revision.c.revision)
    return [
        Happened(
            at=row.sealed_at,
            actor="intake",
            event="revision_sealed",
            payload={"revision": row.revision, "is_this": row.id == key.revision_id},
        )
        for row in connection.execute(query)
    ]


def items(connection: Connection, key: CaseKey) -> list[Happened]:
    """When the case was put on the worklist, each time."""
    query = select(worklist_item).where(worklist_item.c.case_id == key.case_id).order_by(worklist_item.c.created_at)
    return [
        Happened(
            at=row.created_at,
            actor="worklist",
            event="item_scheduled",
            payload={"item": row.id, "round": row.round, "specialty": row.specialty, "due": row.due_at},
        )
        for row in connection.execute(query)
    ]


def sent_results(connection: Connection, key: CaseKey) -> list[Happened]:
    """Results that a destination proved to have."""
    query = (
        select(outbox.c.kind, delivery.c.destination, delivery.c.form, delivery.c.proven_at)
        .join(delivery, delivery.c.outbox_id == outbox.c.id)
        .where(_of_case(key), delivery.c.proven_at.is_not(None))
    )
    return [
        Happened(
            at=row.proven_at,
            actor="delivery",
            event="result_delivered",
            payload={"kind": row.kind, "destination": row.destination, "form": row.form},
        )
        for row in connection.execute(query)
    ]


def _of_case(key: CaseKey) -> Any:
    return outbox.c.decision_id.in_(select(decision.c.id).where(decision.c.case_id == key.case_id))


def exposures(connection: Connection, key: CaseKey) -> list[Happened]:
    """Who was first shown what of the case."""
    return [
        Happened(at=row.at, actor=row.name, event="exposed", payload={"kind": row.kind})
        for row in connection.execute(_with_name(exposure, key))
    ]


def emergencies(connection: Connection, key: CaseKey) -> list[Happened]:
    """Who opened the case in an emergency."""
    return [
        Happened(at=row.at, actor=row.name, event="emergency.opened", payload={"until": row.until})
        for row in connection.execute(_with_name(emergency, key))
    ]


def _with_name(table: Any, key: CaseKey) -> Select[Any]:
    return (
        select(table, account.c.name)
        .join(account, account.c.id == table.c.account_id)
        .where(table.c.case_id == key.case_id)
        .order_by(table.c.at)
    )


def items_told(connection: Connection, case_id: str, account_id: str) -> frozenset[str]:
    """The items whose reading this account may know of: the one it read, else every one of the case."""
    of_case = worklist_item.c.case_id == case_id
    own = select(read.c.item_id).where(read.c.case_id == case_id, read.c.reader_id == account_id)
    found = connection.execute(own).scalars().all()
    return frozenset(found or connection.execute(select(worklist_item.c.id).where(of_case)).scalars())


def hold_items(connection: Connection, case_id: str) -> None:
    """Let nobody claim the case until this transaction ends."""
    connection.execute(select(worklist_item.c.id).where(worklist_item.c.case_id == case_id).with_for_update()).all()
