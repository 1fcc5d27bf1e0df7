"""Studies that are still to be fetched from the PACS, and how far its list was looked through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection, func, insert, select, update

from pipeline.store.door_tables import pull, pull_cursor
from pipeline.store.sequences import new_id


class PullState(StrEnum):
    """Where the fetching of a study stands."""

    WANTED = "WANTED"  #: The PACS holds more of it than we do.
    FETCHED = "FETCHED"  #: Everything that was announced is here.
    PARKED = "PARKED"  #: Not brought within three days: kept and shown, fetched again only on request.


@dataclass(frozen=True, kw_only=True)
class WantedStudy:
    """One study to be fetched, with how many images of each series were announced."""

    id: str
    source: str
    study_instance_uid: str
    expected: Mapping[str, int]
    attempts: int
    wanted_at: datetime


def looked_until(connection: Connection, source: str) -> datetime | None:
    """Up to when the list of that PACS was looked through."""
    query = select(pull_cursor.c.looked_until).where(pull_cursor.c.source == source)
    return connection.execute(query).scalar_one_or_none()


def move_cursor(connection: Connection, source: str, until: datetime) -> None:
    """The list was looked through up to that moment."""
    moved = update(pull_cursor).where(pull_cursor.c.source == source).values(looked_until=until)
    if not connection.execute(moved).rowcount:
        connection.execute(insert(pull_cursor).values(source=source, looked_until=until))


def want(connection: Connection, source: str, study_uid: str, expected: Mapping[str, int], now: datetime) -> bool:
    """Note that a study is to be fetched; False where that was known. A study that grew is wanted anew."""
    known = connection.execute(
        select(pull).where(pull.c.source == source, pull.c.study_instance_uid == study_uid).with_for_update()
    ).one_or_none()
    counts = dict(expected)
    fresh = {"state": PullState.WANTED, "expected": counts, "attempts": 0, "wanted_at": now, "not_before": now}
    if known is None:
        row = {"id": new_id(), "source": source, "study_instance_uid": study_uid, **fresh}
        connection.execute(insert(pull).values(**row))
        return True
    if known.expected == counts and known.state != PullState.FETCHED:
        return False
    connection.execute(update(pull).where(pull.c.id == known.id).values(**fresh, done_at=None, problem=None))
    return True


def claim_next(connection: Connection, source: str, *, now: datetime, lease: timedelta) -> WantedStudy | None:
    """The study whose attempt is due and that is wanted longest, None where there is none.

    Until the lease ends no other run sees it; what a killed run had claimed is due again then.
    """
    query = select(pull).where(pull.c.source == source, pull.c.state == PullState.WANTED, pull.c.not_before <= now)
    first = query.order_by(pull.c.wanted_at, pull.c.id).limit(1).with_for_update(skip_locked=True)
    row = connection.execute(first).one_or_none()
    if row is None:
        return None
    connection.execute(update(pull).where(pull.c.id == row.id).values(not_before=now + lease))
    return WantedStudy(
        id=row.id,
        source=row.source,
        study_instance_uid=row.study_instance_uid,
        expected=row.expected,
        attempts=row.attempts,
        wanted_at=row.wanted_at,
    )


def fetched(connection: Connection, pull_id: str, now: datetime) -> None:
    """Everything announced is here."""
    done = {"state": PullState.FETCHED, "done_at": now, "problem": None, "attempts": pull.c.attempts + 1}
    connection.execute(update(pull).where(pull.c.id == pull_id).values(**done))


def failed(connection: Connection, pull_id: str, problem: str, *, again_at: datetime | None) -> None:
    """It did not come: tried again at that moment, or parked where there is none."""
    values: dict[str, object] = {"attempts": pull.c.attempts + 1, "problem": problem[:255]}
    values |= {"state": PullState.PARKED} if again_at is None else {"not_before": again_at}
    connection.execute(update(pull).where(pull.c.id == pull_id).values(**values))


def want_parked_again(connection: Connection, now: datetime) -> int:
    """A person asks for everything that was parked; returns how many studies that are."""
    again = {"state": PullState.WANTED, "wanted_at": now, "not_before": now, "attempts": 0}
    return connection.execute(update(pull).where(pull.c.state == PullState.PARKED).values(**again)).rowcount


def counts(connection: Connection) -> dict[str, int]:
    """How many studies stand where."""
    query = select(pull.c.state, func.count()).group_by(pull.c.state)
    found = {str(state): int(count) for state, count in connection.execute(query)}
    return {state.value.lower(): found.get(state.value, 0) for state in PullState}
