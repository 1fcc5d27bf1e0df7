from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from pipeline.domain.deferral import ROUTINE_GUARDS
from pipeline.errors import HaltPipeline, RetryLater
from pipeline.store import door_tables, room_tables  # noqa: F401 - their tables join the metadata
from pipeline.store.columns import metadata
from pipeline.store.database import MIGRATIONS, SCHEMA, make_engine, open_database, upgrade
from pipeline.store.tables import GUARDS
from tests.conftest import _named as named
from tests.conftest import _on_server as on_server
from tests.reading_room_cases import NOW


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


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/old.db"
        return
    server: str = request.getfixturevalue("postgres_url")
    name = f"old_{uuid.uuid4().hex}"
    on_server(server, f"CREATE DATABASE {name}")
    yield named(server, name)
    on_server(server, f"DROP DATABASE {name} WITH (FORCE)")


_OF_TYPE = {sa.DateTime: NOW, sa.Boolean: False, sa.JSON: {}, sa.Integer: 0}


def put(connection: sa.Connection, table: sa.Table, **given: object) -> None:
    """A row with something in every column that must hold something."""
    asked = [column for column in table.columns if not column.nullable and column.server_default is None]
    made = {c.name: next((v for kind, v in _OF_TYPE.items() if isinstance(c.type, kind)), "x") for c in asked}
    connection.execute(table.insert().values(**made | given))


def fill_an_older_database(url: str, *, reads: int) -> None:
    engine = make_engine(url)
    with engine.execution_options(secondread_begin="IMMEDIATE").begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", MIGRATIONS)
        command.upgrade(config, "0004")
        known = sa.MetaData()
        known.reflect(connection)
        put(connection, known.tables["account"], id="a", name="ann", role="reader", specialties=["n"])
        put(connection, known.tables["study"], id="s", state="SEALED")
        put(connection, known.tables["study_revision"], id="r", study_id="s", revision=1)
        put(connection, known.tables["protocol_text"], digest="p")
        of_case = {"study_id": "s", "revision_id": "r", "protocol_digest": "p", "state": "DECIDED"}
        put(connection, known.tables["triage_case"], id="c", **of_case)
        for number in range(reads):
            item, of_item = f"i{number}", {"claimed_by": "a", "lease_until": NOW, "priority": 1, "state": "COMPLETED"}
            put(connection, known.tables["worklist_item"], id=item, case_id="c", **of_item)
            put(connection, known.tables["read"], id=item, item_id=item, case_id="c", reader_id="a", certainty=3)
    engine.dispose()


def test_an_older_database_keeps_its_reads_as_reads_of_the_first_round(empty_url: str) -> None:
    fill_an_older_database(empty_url, reads=1)
    database = open_database(empty_url, create=True)
    with database.read() as connection:
        rows = connection.execute(sa.text("SELECT item_id, round FROM read UNION SELECT id, round FROM worklist_item"))
        assert rows.all() == [("i0", 1)]
    database.close()


def test_an_older_database_with_two_reads_of_one_reader_is_left_as_it_is_and_told_the_cure(empty_url: str) -> None:
    fill_an_older_database(empty_url, reads=2)
    with pytest.raises(HaltPipeline, match=r"1 cases hold several reads .* keep one read per case and reader"):
        upgrade(empty_url)
    engine = make_engine(empty_url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one() == "0004"
    assert "draft" not in sa.inspect(engine).get_table_names()
    engine.dispose()
