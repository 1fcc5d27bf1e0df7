"""The safe state: while it is on, every case goes to clinicians. Each switch is a row that stays."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, insert, select

from pipeline.store.sequences import next_number
from pipeline.store.tables import safe_state


def is_safe(connection: Connection) -> bool:
    """Whether the safe state is on; before the first switch it is off."""
    newest = select(safe_state.c.on).order_by(safe_state.c.sequence.desc()).limit(1)
    return bool(connection.execute(newest).scalar_one_or_none())


def set_safe_state(connection: Connection, *, on: bool, actor: str, reason: str, at: datetime) -> None:
    """Switch the safe state; who and why stay on record."""
    sequence = next_number(connection, safe_state.c.sequence)
    connection.execute(insert(safe_state).values(sequence=sequence, on=on, actor=actor, reason=reason, at=at))
