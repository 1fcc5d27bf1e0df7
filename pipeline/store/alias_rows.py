"""Our own history of which release each alias named and when; the registry only mirrors the newest."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, insert, select

from pipeline.store.sequences import next_number
from pipeline.store.tables import release_alias


@dataclass(frozen=True, kw_only=True)
class AliasMove:
    """From `at` on the alias of this model names this version, until the next move."""

    model: str
    alias: str
    version: str
    release_digest: str
    actor: str
    reason: str
    at: datetime


def record_alias(
    connection: Connection,
    *,
    model: str,
    alias: str,
    version: str,
    release_digest: str,
    actor: str,
    reason: str,
    at: datetime,
) -> None:
    """Note that the alias moved; earlier moves stay."""
    sequence = next_number(connection, release_alias.c.sequence)
    row = {"model": model, "alias": alias, "version": version, "release_digest": release_digest}
    connection.execute(insert(release_alias).values(sequence=sequence, **row, actor=actor, reason=reason, at=at))


def current_alias(connection: Connection, model: str, alias: str) -> AliasMove | None:
    """The newest move of the alias, or None when it never named anything."""
    return _newest(connection, _moves(model, alias))


def alias_at(connection: Connection, model: str, alias: str, at: datetime) -> AliasMove | None:
    """What the alias named at that moment, or None."""
    return _newest(connection, _moves(model, alias).where(release_alias.c.at <= at))


def history(connection: Connection, model: str) -> list[AliasMove]:
    """Every move of every alias of the model, oldest first."""
    query = select(release_alias).where(release_alias.c.model == model).order_by(release_alias.c.sequence)
    return [_move(row) for row in connection.execute(query)]


def champions(connection: Connection) -> dict[str, AliasMove]:
    """The newest champion of every model."""
    query = select(release_alias).where(release_alias.c.alias == "champion").order_by(release_alias.c.sequence)
    return {row.model: _move(row) for row in connection.execute(query)}


def _moves(model: str, alias: str) -> Select[Any]:
    return select(release_alias).where(release_alias.c.model == model, release_alias.c.alias == alias)


def _newest(connection: Connection, query: Select[Any]) -> AliasMove | None:
    row = connection.execute(query.order_by(release_alias.c.sequence.desc()).limit(1)).one_or_none()
    return None if row is None else _move(row)


def _move(row: Row[Any]) -> AliasMove:
    return AliasMove(
        model=row.model,
        alias=row.alias,
        version=row.version,
        release_digest=row.release_digest,
        actor=row.actor,
        reason=row.reason,
        at=row.at,
    )
