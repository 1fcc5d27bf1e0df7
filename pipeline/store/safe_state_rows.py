"""The safe state: while it is on, every case goes to clinicians. Each switch is a row that stays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select

from pipeline.store.sequences import next_number, share_turn
from pipeline.store.tables import safe_state


@dataclass(frozen=True, kw_only=True)
class Switch:
    """One switching of the safe state: on by one person or program, off by two people."""

    sequence: int
    on: bool
    actor: str
    reason: str
    at: datetime


def is_safe(connection: Connection) -> bool:
    """Whether the safe state is on; before the first switch it is off."""
    newest = select(safe_state.c.on).order_by(safe_state.c.sequence.desc()).limit(1)
    return bool(connection.execute(newest).scalar_one_or_none())


def set_safe_state(connection: Connection, *, on: bool, actor: str, reason: str, at: datetime) -> int:
    """Switch the safe state and return the switch's number; who and why stay on record."""
    sequence = next_number(connection, safe_state.c.sequence)
    connection.execute(insert(safe_state).values(sequence=sequence, on=on, actor=actor, reason=reason, at=at))
    return sequence


def share(connection: Connection) -> None:
    """Let nobody switch until this transaction ends; other decisions are written meanwhile."""
    share_turn(connection, safe_state)


def hold(connection: Connection) -> None:
    """Let nobody else switch, or ask to, until this transaction ends."""
    next_number(connection, safe_state.c.sequence)


def current_stop(connection: Connection) -> Switch | None:
    """The switch that keeps the safe state on, or None when it is off."""
    newest = next(iter(history(connection, limit=1)), None)
    return newest if newest is not None and newest.on else None


def history(connection: Connection, *, limit: int) -> list[Switch]:
    """The newest switches, newest first."""
    query = select(safe_state).order_by(safe_state.c.sequence.desc()).limit(limit)
    return [
        Switch(sequence=row.sequence, on=row.on, actor=row.actor, reason=row.reason, at=row.at)
        for row in connection.execute(query)
    ]
