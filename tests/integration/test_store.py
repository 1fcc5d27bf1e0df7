from __future__ import annotations

import sqlite3
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pipeline.errors import RetryLater
from pipeline.intake import accept_folder
from pipeline.store import alias_rows, case_rows, safe_state_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database, is_safe_for_wal, make_engine, open_database
from pipeline.store.refusals import ConstraintRefused, DatabaseFailed
from pipeline.store.tables import case, decision, routine_proof
from pipeline.triage import triage_case
from tests.pretend_scanner import (
    KEY,
    MINUTE,
    NOON,
    PretendedRelease,
    PretendedSandbox,
    claim,
    seal_all,
    tiny_protocol,
    write_study,
)

PROTOCOL = tiny_protocol()
START = NOON + 11 * MINUTE


@pytest.fixture
def ready(database: Database, tmp_path: Path) -> Database:
    """Three studies with a case each."""
    for number in (1, 2, 3):
        write_study(tmp_path / "in", f"1.{number}", patient_id=f"P{number}")
    blobs, sandbox = BlobStore(tmp_path / "blobs"), PretendedSandbox()
    given: dict[str, Any] = {"source": "folder", "pseudonym_key": KEY, "now": lambda: NOON}
    list(accept_folder(database, blobs, sandbox, tmp_path / "in", **given))
    seal_all(database, PROTOCOL)
    return database


def test_claims_are_exclusive_ordered_and_limited(ready: Database) -> None:
    first, rest = claim(ready, PROTOCOL, owner="a", limit=2), claim(ready, PROTOCOL, owner="b")
    assert (len(first), len(rest)) == (2, 1)
    assert len({held.case_id for held in [*first, *rest]}) == 3
    assert {(held.fence, held.attempts) for held in [*first, *rest]} == {(1, 1)}
    assert claim(ready, PROTOCOL, owner="c") == []


def test_another_protocol_claims_nothing(ready: Database) -> None:
    other = PROTOCOL.model_copy(update={"name": "other"})
    assert claim(ready, other) == []


def test_an_ended_lease_comes_back_with_a_new_fence(ready: Database) -> None:
    old = claim(ready, PROTOCOL, owner="a", lease=MINUTE)
    assert claim(ready, PROTOCOL, owner="b", now=START + 0.9 * MINUTE) == []
    new = claim(ready, PROTOCOL, owner="b", now=START + MINUTE)
    assert {held.case_id for held in new} == {held.case_id for held in old}
    assert {(held.fence, held.attempts, held.owner) for held in new} == {(2, 2, "b")}


def test_a_lease_is_renewed_while_it_lives_and_by_its_holder_only(ready: Database) -> None:
    (held, *_) = claim(ready, PROTOCOL, owner="a", lease=MINUTE)

    def renew(owner: str = "a", fence: int = held.fence, now: Any = START) -> bool:
        with ready.transaction() as connection:
            return case_rows.renew(
                connection, case_id=held.case_id, owner=owner, fence=fence, lease=2 * MINUTE, now=now
            )

    assert not renew(owner="b")
    assert not renew(fence=held.fence + 1)
    assert renew()
    assert claim(ready, PROTOCOL, owner="b", now=START + 1.5 * MINUTE, limit=9)  # the others' leases ended, not this
    assert not renew(now=START + 2 * MINUTE)


def test_a_released_case_waits_until_its_moment(ready: Database) -> None:
    (held, *_) = claim(ready, PROTOCOL, owner="a", limit=1)

    def release(fence: int) -> bool:
        with ready.transaction() as connection:
            return case_rows.release(
                connection, case_id=held.case_id, owner="a", fence=fence, not_before=START + 5 * MINUTE
            )

    assert not release(held.fence + 1)
    assert release(held.fence)
    assert held.case_id not in {c.case_id for c in claim(ready, PROTOCOL)}
    assert held.case_id in {c.case_id for c in claim(ready, PROTOCOL, now=START + 5 * MINUTE)}


def test_counts_of_the_queue(ready: Database) -> None:
    claim(ready, PROTOCOL, limit=1)
    with ready.read() as connection:
        assert case_rows.count_ready(connection, now=START) == 2
        assert case_rows.count_held(connection) == 1
        assert case_rows.count_open_studies(connection) == 0


def test_one_revision_is_put_to_a_protocol_once(ready: Database) -> None:
    with ready.read() as connection:
        row = connection.execute(sa.select(case)).first()
    assert row is not None
    with pytest.raises(ConstraintRefused), ready.transaction() as connection:
        case_rows.open_case(
            connection,
            study_id=row.study_id,
            revision_id=row.revision_id,
            protocol=row.protocol,
            protocol_digest=row.protocol_digest,
            now=NOON,
        )


@pytest.mark.parametrize("statement", ["UPDATE {} SET {} = {}", "DELETE FROM {}"])
@pytest.mark.parametrize("table", [decision, routine_proof])
def test_decisions_and_proofs_are_never_changed(
    ready: Database, tmp_path: Path, table: sa.Table, statement: str
) -> None:
    (held, *_) = claim(ready, PROTOCOL)
    triage_case(
        ready,
        BlobStore(tmp_path / "blobs"),
        PretendedSandbox(),
        PretendedRelease(PROTOCOL),
        held,
        PROTOCOL,
        audit_key=KEY,
        now=lambda: START,
    )
    with pytest.raises(ConstraintRefused), ready.transaction() as connection:
        connection.exec_driver_sql(statement.format(table.name, "case_id", "case_id"))


def test_aliases_keep_their_whole_history(database: Database) -> None:
    moves = [("champion", "1"), ("challenger", "2"), ("champion", "2"), ("champion", "1")]
    with database.transaction() as connection:
        for minute, (alias, version) in enumerate(moves):
            alias_rows.record_alias(
                connection,
                model="m",
                alias=alias,
                version=version,
                release_digest=version * 64,
                actor="lead",
                reason="r",
                at=NOON + minute * MINUTE,
            )
    with database.read() as connection:
        assert [(m.alias, m.version) for m in alias_rows.history(connection, "m")] == moves
        current = alias_rows.current_alias(connection, "m", "champion")
        before = alias_rows.alias_at(connection, "m", "champion", NOON + 2.5 * MINUTE)
        assert current is not None
        assert before is not None
        assert (current.version, before.version) == ("1", "2")
        assert alias_rows.alias_at(connection, "m", "champion", NOON - MINUTE) is None
        assert alias_rows.current_alias(connection, "other", "champion") is None
        assert {k: v.version for k, v in alias_rows.champions(connection).items()} == {"m": "1"}


@pytest.mark.parametrize("statement", ["UPDATE {} SET actor = 'x'", "DELETE FROM {}"])
@pytest.mark.parametrize("table", ["release_alias", "safe_state"])
def test_switches_are_never_changed(database: Database, table: str, statement: str) -> None:
    with database.transaction() as connection:
        safe_state_rows.set_safe_state(connection, on=True, actor="a", reason="r", at=NOON)
        alias_rows.record_alias(
            connection, model="m", alias="a", version="1", release_digest="d", actor="a", reason="r", at=NOON
        )
    with pytest.raises(ConstraintRefused), database.transaction() as connection:
        connection.exec_driver_sql(statement.format(table))


def test_the_safe_state_is_what_was_switched_last(database: Database) -> None:
    found = []
    for on in (None, True, False, True):
        with database.transaction() as connection:
            if on is not None:
                safe_state_rows.set_safe_state(connection, on=on, actor="a", reason="r", at=NOON)
        with database.read() as connection:
            found.append(safe_state_rows.is_safe(connection))
    assert found == [False, True, False, True]


def test_a_reading_transaction_writes_nothing(database: Database) -> None:
    with database.read() as connection:
        safe_state_rows.set_safe_state(connection, on=True, actor="a", reason="r", at=NOON)
    with database.read() as connection:
        assert not safe_state_rows.is_safe(connection)


def test_an_exception_rolls_everything_back(database: Database) -> None:
    with pytest.raises(KeyError):
        _switch_and_fail(database)
    with database.read() as connection:
        assert not safe_state_rows.is_safe(connection)


def _switch_and_fail(database: Database) -> None:
    with database.transaction() as connection:
        safe_state_rows.set_safe_state(connection, on=True, actor="a", reason="r", at=NOON)
        raise KeyError


def test_a_moment_without_zone_is_refused(database: Database) -> None:
    with pytest.raises(sa.exc.StatementError, match="aware"), database.transaction() as connection:
        safe_state_rows.set_safe_state(connection, on=True, actor="a", reason="r", at=NOON.replace(tzinfo=None))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO safe_state VALUES (1, NULL, 'JANE DOE', 'r', NULL)",
        "INSERT INTO release_alias (sequence, model) VALUES (1, 'JANE DOE')",
    ],
)
def test_errors_of_the_database_never_show_values(database: Database, statement: str) -> None:
    with pytest.raises(ConstraintRefused) as caught, database.transaction() as connection:
        connection.execute(sa.text(statement))
    shown = "".join(traceback.format_exception(caught.value))
    assert "JANE DOE" not in shown.replace(statement, "")
    assert "null" in str(caught.value).lower()


def test_a_mistake_in_a_statement_is_told_without_values(database: Database) -> None:
    with pytest.raises(DatabaseFailed, match="nonsense") as caught, database.read() as connection:
        connection.execute(sa.text("SELECT nonsense FROM study WHERE id = :id"), {"id": "JANE DOE"})
    assert "JANE DOE" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((4, 0, 0), True),
    ],
)
def test_write_ahead_logging_is_used_only_where_it_keeps_what_was_committed(
    version: tuple[int, int, int], safe: bool
) -> None:
    assert is_safe_for_wal(version) is safe


def test_sqlite_is_set_to_keep_what_it_confirms(migrated_sqlite: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.db"
    path.write_bytes(migrated_sqlite.read_bytes())
    database = open_database(f"sqlite:///{path}")
    with database.read() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "trusted_schema")
        }
    wal = is_safe_for_wal(sqlite3.sqlite_version_info)
    expected = ("wal", 2) if wal else ("delete", 3)
    assert (found["journal_mode"], found["synchronous"]) == expected
    assert (found["foreign_keys"], found["busy_timeout"], found["trusted_schema"]) == (1, 5000, 0)
    database.close()


def test_a_database_left_in_write_ahead_mode_is_taken_out_of_it_where_that_is_unsafe(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old = sqlite3.connect(path)
    old.execute("PRAGMA journal_mode=wal")
    old.execute("CREATE TABLE t (x)")
    old.close()
    engine = make_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    engine.dispose()
    assert mode == ("wal" if is_safe_for_wal(sqlite3.sqlite_version_info) else "delete")


def test_a_lease_must_be_named_where_a_case_is_held(ready: Database) -> None:
    with pytest.raises(ConstraintRefused), ready.transaction() as connection:
        connection.execute(sa.update(case).values(state="CLAIMED"))


def test_leases_are_kept_apart_by_owner_even_with_one_fence(ready: Database) -> None:
    (held, *_) = claim(ready, PROTOCOL, owner="a")
    with pytest.raises(case_rows.LostClaim), ready.transaction() as connection:
        case_rows.finish(connection, case_id=held.case_id, owner="b", fence=held.fence, now=START)
    with ready.transaction() as connection:
        case_rows.finish(
            connection, case_id=held.case_id, owner="a", fence=held.fence, now=START + timedelta(seconds=1)
        )


def test_a_full_disk_under_the_database_means_trying_again_later(migrated_sqlite: Path, tmp_path: Path) -> None:
    path = tmp_path / "full.db"
    path.write_bytes(migrated_sqlite.read_bytes())
    database = open_database(f"sqlite:///{path}")
    with pytest.raises(RetryLater, match="full"):
        _write_on_a_full_disk(database)
    with database.transaction() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=100000")
        assert not safe_state_rows.is_safe(connection)
    database.close()


def _write_on_a_full_disk(database: Database) -> None:
    with database.transaction() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1")
        safe_state_rows.set_safe_state(connection, on=True, actor="a" * 50_000, reason="r", at=NOON)
