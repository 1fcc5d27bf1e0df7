"""Requests to arm automation again: each belongs to one stop and one person, and only two people together are enough."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select

from pipeline.store.account_rows import ALLOWED, May
from pipeline.store.room_tables import rearm_request
from pipeline.store.sequences import new_id
from pipeline.store.tables import account

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
