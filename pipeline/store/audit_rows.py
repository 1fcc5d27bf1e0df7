"""The audit trail: append-only events, each hashed over its content and the hash before it.

What the chain shows: an edit, a deletion, an insertion or a reordering breaks it. A cut tail leaves a chain that is
whole, so it shows only against a head that was noted elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select

from pipeline.store.database import Database, canonical_json
from pipeline.store.sequences import wait_for_turn
from pipeline.store.tables import audit_event

GENESIS = "0" * 64
_BATCH = 1000
_ONE_READ = 10_000  #: events, which are fetched well within the patience of a writer


@dataclass(frozen=True)
class AuditHead:
    """The newest event's number and hash; number 0 and GENESIS before the first."""

    sequence: int
    hash: str


def append(
    connection: Connection,
    *,
    at: datetime,
    actor: str,
    event: str,
    payload: Mapping[str, Any],
    case_id: str | None = None,
    study_id: str | None = None,
) -> AuditHead:
    """Add one event and return the new head; `payload` is JSON without NaN and without patient data."""
    wait_for_turn(connection, audit_event)
    last = head(connection)
    row = {
        "sequence": last.sequence + 1,
        "at": at.astimezone(UTC),
        "actor": actor,
        "event": event,
        "case_id": case_id,
        "study_id": study_id,
        "payload": canonical_json(payload),
        "previous": last.hash,
    }
    new = AuditHead(last.sequence + 1, _hash(row))
    connection.execute(insert(audit_event).values(**row, hash=new.hash))
    return new


def head(connection: Connection) -> AuditHead:
    """The newest event, to be noted where nobody who can write this database can write."""
    newest = select(audit_event.c.sequence, audit_event.c.hash).order_by(audit_event.c.sequence.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    return AuditHead(0, GENESIS) if row is None else AuditHead(row.sequence, row.hash)


def newest_moment(connection: Connection) -> datetime | None:
    """When the newest event was written, None in an empty trail."""
    return connection.execute(select(func.max(audit_event.c.at))).scalar_one_or_none()


def verify_chain(connection: Connection, expected: AuditHead | None = None) -> list[str]:
    """What is wrong with the trail, one sentence each; empty when it is whole and still holds the `expected` head."""
    events = _events().execution_options(yield_per=_BATCH)
    return _problems(connection.execute(events).mappings(), expected)


def verify_trail(database: Database, expected: AuditHead | None = None) -> list[str]:
    """The same of a trail of any length, in reads so short that nobody who writes meanwhile waits for long."""
    return _problems(_in_short_reads(database), expected)


def _events() -> Select[Any]:
    return select(audit_event).order_by(audit_event.c.sequence)


def _in_short_reads(database: Database) -> Iterator[Mapping[Any, Any]]:
    query = _events().limit(_ONE_READ)
    while True:
        with database.read() as connection:
            rows = connection.execute(query).mappings().all()
        yield from rows
        if len(rows) < _ONE_READ:
            return
        query = _events().where(audit_event.c.sequence > rows[-1]["sequence"]).limit(_ONE_READ)


def _problems(events: Iterable[Mapping[Any, Any]], expected: AuditHead | None) -> list[str]:
    problems: list[str] = []
    last, seen = AuditHead(0, GENESIS), expected is None or expected.sequence == 0
    for row in events:
        problems.extend(_problems_of(row, last))
        last = AuditHead(row["sequence"], row["hash"])
        seen = seen or last == expected
    if not seen and expected is not None:
        problems.append(f"event {expected.sequence}, which was the head once, is absent or another one")
    return problems


def is_whole(row: Mapping[Any, Any], *, previous: str | None) -> bool:
    """Whether one event is as it was written, and follows the event of the hash `previous`."""
    return bool(row["hash"] == _hash(row) and row["previous"] == previous)


def _problems_of(row: Mapping[Any, Any], last: AuditHead) -> list[str]:
    problems, number = [], row["sequence"]
    if number != last.sequence + 1:
        problems.append(f"events {last.sequence + 1} to {number - 1} are absent")
    if row["previous"] != last.hash:
        problems.append(f"event {number} does not follow the event before it")
    if row["hash"] != _hash(row):
        problems.append(f"event {number} was changed")
    return problems


def _hash(row: Mapping[Any, Any]) -> str:
    names = ("sequence", "actor", "event", "case_id", "study_id", "payload", "previous")
    content = {name: row[name] for name in names} | {"at": row["at"].isoformat(timespec="microseconds")}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
