"""Requests to arm automation again: each belongs to one stop and one person, and only two people together are enough."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, exists, func, insert, select

from pipeline.store.account_rows import ALLOWED, May
from pipeline.store.room_tables import rearm_request
from pipeline.store.sequences import new_id
from pipeline.store.tables import account, audit_event, safe_state

_CHANGES = ("account_changed", "account_enabled", "password_reset")
_MAY_STOP = [role.value for role, allowed in ALLOWED.items() if May.STOP in allowed]


@dataclass(frozen=True, kw_only=True)
class RearmRequest:
    """One person's wish to leave the safe state."""

    account_id: str
    name: str
    reason: str
    at: datetime


def has_asked(connection: Connection, *, stop_sequence: int, account_id: str) -> bool:
    """Whether this person has asked to end this stop."""
    asked = select(rearm_request.c.id).where(
        rearm_request.c.stop_sequence == stop_sequence, rearm_request.c.account_id == account_id
    )
    return connection.execute(asked).first() is not None


def stopped_since(connection: Connection) -> datetime | None:
    """When the safe state began, through every stop that followed; None while it is off."""
    armed = select(func.coalesce(func.max(safe_state.c.sequence), 0)).where(safe_state.c.on.is_(False))
    later = safe_state.c.sequence > armed.scalar_subquery()
    began: datetime | None = connection.execute(select(func.min(safe_state.c.at)).where(later)).scalar_one()
    return began


def is_settled(connection: Connection, *, account_id: str, since: datetime) -> bool:
    """Whether this account was there before that moment, and nobody made it what it is since."""
    changed = exists().where(
        audit_event.c.event.in_(_CHANGES),
        audit_event.c.at >= since,
        audit_event.c.payload.contains(f'"account":"{account_id}"', autoescape=True),
    )
    mine = select(account.c.id).where(account.c.id == account_id, account.c.created_at < since, ~changed)
    return connection.execute(mine).first() is not None


def ask(connection: Connection, *, stop_sequence: int, account_id: str, reason: str, now: datetime) -> None:
    """Write a request; the database refuses a second one of the same person for the same stop."""
    row = {"stop_sequence": stop_sequence, "account_id": account_id, "reason": reason, "at": now}
    connection.execute(insert(rearm_request).values(id=new_id(), **row))


def requests_for(connection: Connection, *, stop_sequence: int) -> list[RearmRequest]:
    """The requests to end this stop by people who still may ask, oldest first."""
    query = (
        select(rearm_request, account.c.name)
        .join(account, account.c.id == rearm_request.c.account_id)
        .where(
            rearm_request.c.stop_sequence == stop_sequence,
            account.c.disabled.is_(False),
            account.c.role.in_(_MAY_STOP),
        )
        .order_by(rearm_request.c.at, rearm_request.c.id)
    )
    return [
        RearmRequest(account_id=row.account_id, name=row.name, reason=row.reason, at=row.at)
        for row in connection.execute(query)
    ]
