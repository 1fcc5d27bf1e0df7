"""The outbox: what has to be told outside, written with what it tells, and its way to each destination.

A delivery is held under a lease and a fence, like a case. Deliveries about one study reach one destination in the order
of their decisions, so that nothing stale arrives after what replaced it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, exists, func, insert, or_, select, update

from pipeline.domain.case import CaseState
from pipeline.domain.result import DeliveryState, ResultForm, ResultKind, derived_uid
from pipeline.store.door_tables import delivery
from pipeline.store.sequences import new_id
from pipeline.store.tables import case, decision, outbox, study_revision

_DICOM = (ResultForm.SR, ResultForm.SC)


@dataclass(frozen=True, kw_only=True)
class DueDelivery:
    """One worker's hold on one delivery; `digest` is that of the object, once it was made."""

    id: str
    outbox_id: str
    destination: str
    form: ResultForm
    attempts: int
    fence: int
    digest: str | None
    created_at: datetime
    study_id: str


def announce(connection: Connection, *, case_id: str, kind: ResultKind, now: datetime) -> None:
    """Say once that something is to be told about the decision of a case."""
    decision_id = connection.execute(select(decision.c.id).where(decision.c.case_id == case_id)).scalar_one_or_none()
    known = select(outbox.c.id).where(outbox.c.decision_id == decision_id, outbox.c.kind == kind)
    if decision_id is None or connection.execute(known).first() is not None:
        return
    payload = {"decision": decision_id, "case": case_id}
    connection.execute(
        insert(outbox).values(id=new_id(), decision_id=decision_id, kind=kind, payload=payload, created_at=now)
    )


def plan(connection: Connection, destinations: Mapping[str, Sequence[str]], now: datetime) -> int:
    """Give every untold outbox row a delivery to every destination in its forms; returns how many are new.

    `destinations` are forms by name. The object's UIDs are fixed here, before anything is sent, so that our own results
    are known when they come back.
    """
    untold = select(outbox).where(outbox.c.delivered_at.is_(None)).order_by(outbox.c.created_at, outbox.c.id)
    rows = connection.execute(untold.with_for_update()).all()  # another planner waits, and then finds these planned
    known = set(
        connection.execute(
            select(delivery.c.outbox_id, delivery.c.destination, delivery.c.form)
            .join(outbox, outbox.c.id == delivery.c.outbox_id)
            .where(outbox.c.delivered_at.is_(None))
        ).tuples()
    )
    wanted = [
        _delivery(row.id, name, ResultForm(form), now)
        for row in rows
        for name, forms in destinations.items()
        for form in forms
        if (row.id, name, form) not in known
    ]
    if wanted:
        connection.execute(insert(delivery), wanted)
    return len(wanted)


def _delivery(outbox_id: str, destination: str, form: ResultForm, now: datetime) -> dict[str, Any]:
    is_object = form in _DICOM
    return {
        "id": new_id(),
        "outbox_id": outbox_id,
        "destination": destination,
        "form": form.value,
        "state": DeliveryState.WAITING,
        "attempts": 0,
        "fence": 0,
        "sop_instance_uid": derived_uid(outbox_id, form.value) if is_object else None,
        "series_instance_uid": derived_uid(outbox_id, f"{form.value} series") if is_object else None,
        "created_at": now,
        "not_before": now,
    }


def overtake(connection: Connection) -> int:
    """Give up what was not told yet and is no longer so: a later revision of the study, or the read itself, is to be told."""
    later, this = outbox.alias(), outbox.c.decision_id
    read_is_known = exists().where(later.c.decision_id == this, later.c.kind == ResultKind.READ)
    told_anew = and_(outbox.c.kind == ResultKind.TRIAGE, read_is_known)
    replaced = exists().where(
        decision.c.id == this, case.c.id == decision.c.case_id, case.c.state == CaseState.SUPERSEDED
    )
    stale = select(outbox.c.id).where(or_(told_anew, replaced))
    given_up = (
        update(delivery)
        .where(delivery.c.state == DeliveryState.WAITING, delivery.c.attempts == 0, delivery.c.outbox_id.in_(stale))
        .values(state=DeliveryState.OVERTAKEN)
    )
    return connection.execute(given_up).rowcount


def claim_due(connection: Connection, *, now: datetime, lease: timedelta, limit: int) -> list[DueDelivery]:
    """Hold deliveries that are due, oldest result first, none before an earlier one about its study is settled."""
    query = (
        _deliveries()
        .where(_is_due(now), ~_waits_for_an_earlier_one())
        .order_by(outbox.c.created_at, delivery.c.id)
        .limit(limit)
        .with_for_update(of=delivery, skip_locked=True)
    )
    rows = connection.execute(query).all()
    held = {"fence": delivery.c.fence + 1, "lease_until": now + lease, "attempts": delivery.c.attempts + 1}
    for row in rows:
        connection.execute(update(delivery).where(delivery.c.id == row.id).values(**held))
    return [
        DueDelivery(
            id=row.id,
            outbox_id=row.outbox_id,
            destination=row.destination,
            form=ResultForm(row.form),
            attempts=row.attempts,
            fence=row.fence + 1,
            digest=row.digest,
            created_at=row.created_at,
            study_id=row.study_id,
        )
        for row in rows
    ]


def _deliveries() -> Any:
    return (
        select(delivery, case.c.study_id)
        .join(outbox, outbox.c.id == delivery.c.outbox_id)
        .join(decision, decision.c.id == outbox.c.decision_id)
        .join(case, case.c.id == decision.c.case_id)
        .join(study_revision, study_revision.c.id == case.c.revision_id)
    )


def _is_due(now: datetime) -> ColumnElement[bool]:
    free = or_(delivery.c.lease_until.is_(None), delivery.c.lease_until <= now)
    return and_(delivery.c.state == DeliveryState.WAITING, delivery.c.not_before <= now, free)


def _waits_for_an_earlier_one() -> ColumnElement[bool]:
    """Whether something told before this one, about the same study under the same protocol, is still on its way there."""
    before, of, by, put, at = (table.alias() for table in (delivery, outbox, decision, case, study_revision))
    same_case = and_(put.c.id == case.c.id, of.c.kind == ResultKind.TRIAGE, outbox.c.kind == ResultKind.READ)
    return exists().where(
        before.c.outbox_id == of.c.id,
        of.c.decision_id == by.c.id,
        by.c.case_id == put.c.id,
        put.c.revision_id == at.c.id,
        put.c.study_id == case.c.study_id,
        put.c.protocol == case.c.protocol,
        before.c.destination == delivery.c.destination,
        before.c.form == delivery.c.form,
        before.c.state == DeliveryState.WAITING,
        or_(at.c.revision < study_revision.c.revision, same_case),
    )


def made_object(connection: Connection, outbox_id: str, form: ResultForm) -> str | None:
    """The digest of the object that was made of a result in this form, for whichever destination."""
    query = select(delivery.c.digest).where(
        delivery.c.outbox_id == outbox_id, delivery.c.form == form.value, delivery.c.digest.is_not(None)
    )
    return connection.execute(query.limit(1)).scalar_one_or_none()


def note_object(connection: Connection, outbox_id: str, form: ResultForm, digest: str) -> str:
    """Bind a result's form to the object made of it, once for all destinations; returns the digest that counts."""
    first = made_object(connection, outbox_id, form) or digest
    same = and_(delivery.c.outbox_id == outbox_id, delivery.c.form == form.value)
    connection.execute(update(delivery).where(same).values(digest=first))
    return first


def _held(due: DueDelivery) -> ColumnElement[bool]:
    return and_(delivery.c.id == due.id, delivery.c.fence == due.fence, delivery.c.state == DeliveryState.WAITING)


def prove(connection: Connection, due: DueDelivery, proof: Mapping[str, str], now: datetime) -> bool:
    """The receiver has it; False where the hold passed to somebody else meanwhile."""
    done = {"state": DeliveryState.PROVEN, "proof": dict(proof), "proven_at": now, "problem": None, "lease_until": None}
    return connection.execute(update(delivery).where(_held(due)).values(**done)).rowcount == 1


def put_off(connection: Connection, due: DueDelivery, problem: str, *, again_at: datetime | None) -> bool:
    """It was not delivered: tried again at that moment, or parked where there is none."""
    values: dict[str, Any] = {"problem": problem[:255], "lease_until": None}
    values |= {"state": DeliveryState.PARKED} if again_at is None else {"not_before": again_at}
    return connection.execute(update(delivery).where(_held(due)).values(**values)).rowcount == 1


def close_told(connection: Connection, now: datetime) -> int:
    """Mark outbox rows with deliveries that are all proven or overtaken as told."""
    unsettled = exists().where(
        delivery.c.outbox_id == outbox.c.id,
        delivery.c.state.in_((DeliveryState.WAITING, DeliveryState.PARKED)),
    )
    some = exists().where(delivery.c.outbox_id == outbox.c.id)
    told = update(outbox).where(outbox.c.delivered_at.is_(None), some, ~unsettled).values(delivered_at=now)
    return connection.execute(told).rowcount


def send_parked_again(connection: Connection, now: datetime) -> int:
    """A person asks for everything that was parked; returns how many deliveries that are."""
    again = {"state": DeliveryState.WAITING, "not_before": now, "created_at": now}
    parked = update(delivery).where(delivery.c.state == DeliveryState.PARKED).values(**again)
    return connection.execute(parked).rowcount


def counts(connection: Connection) -> dict[str, int]:
    """How many deliveries stand where."""
    query = select(delivery.c.state, func.count()).group_by(delivery.c.state)
    found = {str(state): int(count) for state, count in connection.execute(query)}
    return {state.value.lower(): found.get(state.value, 0) for state in DeliveryState}
