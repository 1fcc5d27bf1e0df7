from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa

from pipeline.store import audit_rows
from pipeline.store.audit_rows import AuditHead
from pipeline.store.database import Database
from pipeline.store.refusals import ConstraintRefused
from pipeline.store.tables import audit_event
from tests.pretend_scanner import MINUTE, NOON

EVENTS = 12


@pytest.fixture
def trail(database: Database) -> Database:
    for number in range(EVENTS):
        with database.transaction() as connection:
            audit_rows.append(
                connection, at=NOON + number * MINUTE, actor="a", event="e", case_id=f"c{number}", payload={"n": number}
            )
    return database


@pytest.fixture(autouse=True)
def short_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_rows, "_ONE_READ", 5)


def problems(database: Database, expected: AuditHead | None = None) -> list[str]:
    with database.read() as connection:
        found = audit_rows.verify_chain(connection, expected)
    assert audit_rows.verify_trail(database, expected) == found
    return found


def head(database: Database) -> AuditHead:
    with database.read() as connection:
        return audit_rows.head(connection)


def tamper(database: Database, change: Callable[[sa.Connection], object]) -> None:
    """What an administrator of the database can do: take the triggers away and write."""
    with database.transaction() as connection:
        if database.url_kind == "postgresql":
            connection.exec_driver_sql("ALTER TABLE audit_event DISABLE TRIGGER ALL")
        else:
            connection.exec_driver_sql("DROP TRIGGER audit_event_no_update")
            connection.exec_driver_sql("DROP TRIGGER audit_event_no_delete")
        change(connection)


def test_an_untouched_trail_is_whole(trail: Database) -> None:
    assert problems(trail, head(trail)) == []
    assert head(trail).sequence == EVENTS


def test_no_read_of_a_long_trail_holds_more_than_its_share(trail: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, real = [], trail.read
    monkeypatch.setattr(trail, "read", lambda: reads.append(1) or real())
    assert audit_rows.verify_trail(trail) == []
    assert len(reads) == 3  # 5, 5 and 2 of the 12


def test_an_empty_trail_is_whole_and_has_the_first_head(database: Database) -> None:
    assert (problems(database), head(database)) == ([], AuditHead(0, audit_rows.GENESIS))


@pytest.mark.parametrize("statement", ["UPDATE audit_event SET actor = 'b'", "DELETE FROM audit_event"])
def test_the_database_itself_refuses_changes(trail: Database, statement: str) -> None:
    with pytest.raises(ConstraintRefused), trail.transaction() as connection:
        connection.exec_driver_sql(statement)
    assert problems(trail, head(trail)) == []


def test_replacing_a_row_in_place_is_refused_too(trail: Database) -> None:
    values = "SELECT sequence, at, 'b', event, case_id, study_id, payload, previous, hash FROM audit_event LIMIT 1"
    verb = "INSERT OR REPLACE" if trail.url_kind == "sqlite" else "INSERT"
    with pytest.raises(ConstraintRefused), trail.transaction() as connection:
        connection.exec_driver_sql(f"{verb} INTO audit_event {values}")
    assert problems(trail, head(trail)) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("actor", "b"),
        ("event", "f"),
        ("case_id", "c99"),
        ("study_id", "s"),
        ("payload", '{"n":99}'),
        ("previous", "0" * 64),
        ("hash", "f" * 64),
        ("at", NOON + timedelta(microseconds=1)),
    ],
)
def test_an_edit_of_any_field_of_any_event_is_found(trail: Database, column: str, value: Any) -> None:
    edit = sa.update(audit_event).where(audit_event.c.sequence == 5).values(**{column: value})
    tamper(trail, lambda connection: connection.execute(edit))
    assert problems(trail) != []


@pytest.mark.parametrize("sequence", [1, 6])
def test_a_deletion_is_found(trail: Database, sequence: int) -> None:
    tamper(trail, lambda c: c.execute(sa.delete(audit_event).where(audit_event.c.sequence == sequence)))
    assert any("absent" in problem for problem in problems(trail))


def test_a_deletion_that_renumbers_the_rest_is_found(trail: Database) -> None:
    def hide(connection: sa.Connection) -> None:
        connection.execute(sa.delete(audit_event).where(audit_event.c.sequence == 6))
        for number in range(7, EVENTS + 1):
            move = sa.update(audit_event).where(audit_event.c.sequence == number).values(sequence=number - 1)
            connection.execute(move)

    tamper(trail, hide)
    assert problems(trail) != []


def test_an_insertion_is_found(trail: Database) -> None:
    row = {"sequence": EVENTS + 1, "at": NOON, "actor": "x", "event": "e", "payload": "{}"}
    forged = {**row, "previous": head(trail).hash, "hash": "1" * 64}
    with trail.transaction() as connection:
        connection.execute(sa.insert(audit_event).values(**forged))
    assert problems(trail) == [f"event {EVENTS + 1} was changed"]


def test_two_events_that_change_places_are_found(trail: Database) -> None:
    def swap(connection: sa.Connection) -> None:
        for old, new in ((3, 100), (4, 3), (100, 4)):
            move = sa.update(audit_event).where(audit_event.c.sequence == old).values(sequence=new)
            connection.execute(move)

    tamper(trail, swap)
    assert problems(trail) != []


def test_a_cut_tail_is_found_against_a_head_that_was_noted(trail: Database) -> None:
    noted = head(trail)
    tamper(trail, lambda c: c.execute(sa.delete(audit_event).where(audit_event.c.sequence > 8)))
    assert problems(trail) == []
    assert problems(trail, noted) == [f"event {EVENTS}, which was the head once, is absent or another one"]


def test_a_trail_that_only_grew_still_holds_the_noted_head(trail: Database) -> None:
    noted = head(trail)
    with trail.transaction() as connection:
        audit_rows.append(connection, at=NOON, actor="a", event="more", payload={})
    assert problems(trail, noted) == []


def test_random_tampering_is_always_found(trail: Database) -> None:
    """One hundred edits, deletions and swaps, each undone by its rollback."""
    chance, noted, found = random.Random(5), head(trail), 0
    tamper(trail, lambda _: None)
    for _ in range(100):
        with trail.read() as connection:
            _tamper_at_random(connection, chance)
            found += audit_rows.verify_chain(connection, noted) != []
    assert found == 100


def _tamper_at_random(connection: sa.Connection, chance: random.Random) -> None:
    sequence = chance.randint(1, EVENTS)
    here = audit_event.c.sequence == sequence
    kind = chance.choice(["edit", "delete", "swap"])
    if kind == "edit":
        column = chance.choice(["actor", "event", "payload", "hash", "previous"])
        connection.execute(sa.update(audit_event).where(here).values(**{column: chance.randbytes(8).hex()}))
    elif kind == "delete":
        connection.execute(sa.delete(audit_event).where(audit_event.c.sequence >= sequence))
    else:
        other = sequence % EVENTS + 1
        for old, new in ((sequence, 100), (other, sequence), (100, other)):
            connection.execute(sa.update(audit_event).where(audit_event.c.sequence == old).values(sequence=new))


def test_the_zone_a_moment_is_written_in_does_not_matter(database: Database) -> None:
    with database.transaction() as connection:
        local = datetime(2026, 3, 1, 7, 30, 0, 123456, tzinfo=timezone(timedelta(hours=-5)))
        audit_rows.append(connection, at=local, actor="a", event="e", payload={})
    assert problems(database) == []
    with database.read() as connection:
        (at,) = connection.execute(sa.select(audit_event.c.at)).scalars()
    assert at == datetime(2026, 3, 1, 12, 30, 0, 123456, tzinfo=UTC)


def test_an_event_with_a_number_that_is_none_is_refused(database: Database) -> None:
    with pytest.raises(ValueError, match="JSON"), database.transaction() as connection:
        audit_rows.append(connection, at=NOON, actor="a", event="e", payload={"score": float("nan")})
