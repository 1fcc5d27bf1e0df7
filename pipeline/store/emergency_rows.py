"""Emergencies: one person's sight of one case for a while, with the reason that was given, kept for good."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, insert, select

from pipeline.store.account_rows import Account
from pipeline.store.room_tables import emergency
from pipeline.store.sequences import new_id, wait_for_turn


def add_emergency(
    connection: Connection, *, account_id: str, case_id: str, reason: str, now: datetime, until: datetime
) -> str:
    """Write down that this person opened this case in an emergency; returns the row's id."""
    emergency_id = new_id()
    row = {"id": emergency_id, "account_id": account_id, "case_id": case_id, "reason": reason, "at": now}
    connection.execute(insert(emergency).values(until=until, **row))
    return emergency_id


def hold(connection: Connection) -> None:
    """Let nobody else open a case in an emergency until this transaction ends."""
    wait_for_turn(connection, emergency)


def open_until(connection: Connection, *, account_id: str, case_id: str, now: datetime) -> datetime | None:
    """Until when an emergency of this person lets them see this case, None where none does now."""
    mine = (emergency.c.account_id == account_id) & (emergency.c.case_id == case_id)
    latest = select(emergency.c.until).where(mine, emergency.c.at <= now, emergency.c.until > now)
    return connection.execute(latest.order_by(emergency.c.until.desc()).limit(1)).scalar_one_or_none()


def is_open(connection: Connection, *, account_id: str, case_id: str, now: datetime) -> bool:
    """Whether an emergency of this person lets them see this case now."""
    return open_until(connection, account_id=account_id, case_id=case_id, now=now) is not None


def may_claim(connection: Connection, reader: Account, *, case_id: str, specialty: str, now: datetime) -> bool:
    """Whether a reader may claim a case of this specialty, ordinarily or for the time of an emergency."""
    if reader.may_claim(specialty):
        return True
    return reader.may_read and is_open(connection, account_id=reader.id, case_id=case_id, now=now)
