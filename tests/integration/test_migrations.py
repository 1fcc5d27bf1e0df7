from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from pipeline.domain.deferral import ROUTINE_GUARDS
from pipeline.errors import HaltPipeline, RetryLater
from pipeline.store import door_tables, room_tables  # noqa: F401 - their tables join the metadata
from pipeline.store.columns import metadata
from pipeline.store.database import MIGRATIONS, SCHEMA, make_engine, open_database, upgrade
from pipeline.store.tables import GUARDS


def test_the_guards_of_the_proof_are_those_of_the_decision_in_its_order() -> None:
    assert tuple(ROUTINE_GUARDS) == GUARDS


def test_the_program_names_the_newest_migration() -> None:
    assert ScriptDirectory(MIGRATIONS).get_current_head() == SCHEMA


def test_migrations_make_exactly_the_tables_of_the_code(database_url: str) -> None:
    engine = make_engine(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        differences = compare_metadata(context, metadata)
    engine.dispose()
    assert differences == []


def _rules(engine: sa.Engine) -> dict[str, set[tuple[object, ...]]]:
    inspector = sa.inspect(engine)
    return {
        table: {("check", c["name"], c["sqltext"]) for c in inspector.get_check_constraints(table)}
        | {("unique", c["name"], tuple(c["column_names"])) for c in inspector.get_unique_constraints(table)}
        | {("foreign", c["name"], c["referred_table"]) for c in inspector.get_foreign_keys(table)}
        | {("index", i["name"], tuple(i["column_names"]), i["unique"]) for i in inspector.get_indexes(table)}
        for table in sorted(metadata.tables)
    }


def test_migrations_make_exactly_the_checks_and_keys_of_the_code(database_url: str) -> None:
    migrated = make_engine(database_url)
    expected = _rules(migrated)
    assert any(rule[0] == "check" for rule in expected["decision"])
    metadata.drop_all(migrated)
    metadata.create_all(migrated)
    assert _rules(migrated) == expected
    migrated.dispose()


def test_upgrading_twice_changes_nothing(database_url: str) -> None:
    upgrade(database_url)
    open_database(database_url).close()


def test_an_absent_database_names_its_cure(tmp_path: Path) -> None:
    with pytest.raises(HaltPipeline, match="secondread init"):
        open_database(f"sqlite:///{tmp_path}/absent.db")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_names_its_cure(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with pytest.raises(HaltPipeline, match="secondread init"):
        open_database(f"sqlite:///{tmp_path}/empty.db")


@pytest.mark.parametrize(("version", "cure"), [("0000", "secondread init"), ("9999", "newer")])
def test_another_schema_is_refused(database_url: str, version: str, cure: str) -> None:
    engine = make_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{version}'")
    engine.dispose()
    with pytest.raises(HaltPipeline, match=cure):
        open_database(database_url)


def test_a_server_that_is_away_means_trying_again_later() -> None:
    with pytest.raises(RetryLater):
        open_database("postgresql+psycopg://nobody@127.0.0.1:1/none")


def test_a_locked_file_means_trying_again_later(migrated_sqlite: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.store.database.BUSY", timedelta(milliseconds=50))
    path = tmp_path / "locked.db"
    path.write_bytes(migrated_sqlite.read_bytes())
    first, second = open_database(f"sqlite:///{path}"), open_database(f"sqlite:///{path}")
    with first.transaction(), pytest.raises(RetryLater), second.transaction():
        pytest.fail("two writers at once")
    first.close()
    second.close()
