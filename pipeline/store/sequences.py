"""Numbers without gaps for rows whose order is a promise."""

from __future__ import annotations

import uuid

from sqlalchemy import Column, Connection, FromClause, func, select, text


def wait_for_turn(connection: Connection, numbered: FromClause) -> None:
    """Other writers of that table wait until this transaction ends; SQLite has one writer at a time anyway."""
    if connection.dialect.name == "postgresql":
        lock = text("SELECT pg_advisory_xact_lock(hashtext(:name))")
        connection.execute(lock, {"name": f"secondread.{numbered.description}"})


def share_turn(connection: Connection, numbered: FromClause) -> None:
    """Writers of that table wait until this transaction ends; others may share the turn with it."""
    if connection.dialect.name == "postgresql":
        lock = text("SELECT pg_advisory_xact_lock_shared(hashtext(:name))")
        connection.execute(lock, {"name": f"secondread.{numbered.description}"})


def next_number(connection: Connection, column: Column[int]) -> int:
    """One more than the largest number in `column`; other writers of that table wait until this transaction ends."""
    wait_for_turn(connection, column.table)
    largest: int | None = connection.execute(select(func.max(column))).scalar_one()
    return (largest or 0) + 1


def new_id() -> str:
    """An opaque random identifier, hexadecimal."""
    return uuid.uuid4().hex
