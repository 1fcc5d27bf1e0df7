"""Numbers without gaps for rows whose order is a promise."""

from __future__ import annotations

import uuid

from sqlalchemy import Column, Connection, func, select, text


def next_number(connection: Connection, column: Column[int]) -> int:
    """One more than the largest number in `column`; other writers of that table wait until this transaction ends."""
    if connection.dialect.name == "postgresql":
        lock = text("SELECT pg_advisory_xact_lock(hashtext(:name))")
        connection.execute(lock, {"name": f"secondread.{column.table.name}"})
    largest: int | None = connection.execute(select(func.max(column))).scalar_one()
    return (largest or 0) + 1


def new_id() -> str:
    """An opaque random identifier, hexadecimal."""
    return uuid.uuid4().hex
