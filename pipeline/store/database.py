"""The database: one engine, writing transactions that lock at once, errors named by what happens next.

SQLite: every writing transaction begins IMMEDIATE, because a read that turns into a write may be refused half-way.
The journal mode follows the linked library: write-ahead logging loses committed transactions in SQLite 3.7.0 to
3.51.2 (mended in 3.51.3, 3.50.7 and 3.44.6) when several connections write, so those keep a rollback journal, with
EXTRA instead of FULL, because FULL does not make the unlinking of that journal durable.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pipeline.errors import HaltPipeline, RetryLater
from pipeline.store.refusals import ConstraintRefused, DatabaseFailed, is_missing_table, is_passing, what_failed

SCHEMA = "0005"
"""The newest migration; a database with another one is refused."""

MIGRATIONS = str(Path(__file__).with_name("migrations"))
"""The folder of the migrations; there is no alembic.ini."""

BUSY = timedelta(seconds=5)
"""How long SQLite waits for another writer."""

_POSTGRES_LIMITS = "-c statement_timeout=15s -c lock_timeout=5s -c idle_in_transaction_session_timeout=60s"
_INITIALISE = "run 'secondread init'"

Transaction: TypeAlias = Connection
"""An open transaction, for callers that do not know the database library."""

canonical_json = partial(json.dumps, sort_keys=True, separators=(",", ":"), allow_nan=False)
"""JSON text that is the same for the same value; raises ValueError for NaN and infinities."""


class Database:
    """A database whose schema is the one this code was written for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = threading.Lock() if engine.dialect.name == "sqlite" else None

    @property
    def url_kind(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A writing transaction: committed at the end, rolled back by any exception.

        Raises RetryLater when the database is busy, full or away, ConstraintRefused when a row would break a promise.
        """
        with self._own_turn(), _named_errors(), self._writing.begin() as connection:
            yield connection

    @property
    def _writing(self) -> Engine:
        return self._engine.execution_options(secondread_begin="IMMEDIATE")

    @contextmanager
    def _own_turn(self) -> Iterator[None]:
        """Threads of one process queue for SQLite's one writer here: its busy handler polls, and some would starve."""
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=BUSY.total_seconds()):
            raise RetryLater("the database is busy with another writer: try again")
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A transaction for queries only; what it writes is rolled back. Raises RetryLater."""
        with _named_errors(), self._engine.connect() as connection:
            yield connection

    def close(self) -> None:
        """Give every connection back."""
        self._engine.dispose()


@contextmanager
def _named_errors() -> Iterator[None]:
    """Errors by what happens next, cut off from their cause: PostgreSQL's errors quote the refused row."""
    try:
        yield
    except (IntegrityError, DataError) as error:
        raise ConstraintRefused(f"the database refused a row ({what_failed(error)}); nothing was written") from None
    except DBAPIError as error:
        if is_missing_table(error):
            raise HaltPipeline(f"the database has no tables yet: {_INITIALISE}") from None
        if is_passing(error):
            raise RetryLater(f"the database is busy, full or away ({type(error.orig).__name__}): try again") from None
        raise DatabaseFailed(f"the database failed ({what_failed(error)}): {error.statement}") from None
    except PoolTimeout:
        raise RetryLater("every connection to the database is in use: try again") from None


def make_engine(url: str | URL) -> Engine:
    """An engine that never shows parameters, keeps foreign keys and writes JSON without NaN."""
    address = make_url(url)
    engine = create_engine(
        address,
        hide_parameters=True,
        json_serializer=canonical_json,
        pool_pre_ping=address.get_backend_name() == "postgresql",
        connect_args=_connect_arguments(address),
    )
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _connect_arguments(address: URL) -> dict[str, Any]:
    if address.get_backend_name() == "sqlite":
        return {"timeout": BUSY.total_seconds()}
    given = str(address.query.get("options", ""))
    return {"connect_timeout": 5, "options": f"{_POSTGRES_LIMITS} {given}".strip()}


def is_safe_for_wal(version: tuple[int, int, int]) -> bool:
    """Whether this SQLite keeps committed transactions under write-ahead logging with several writers."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51, 0) or (3, 44, 6) <= version < (3, 45, 0)


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where this module says, not where the driver guesses
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(BUSY.total_seconds() * 1000)}")
    wanted = "wal" if is_safe_for_wal(sqlite3.sqlite_version_info) else "delete"
    cursor.execute(f"PRAGMA journal_mode={wanted}")
    (mode,) = cursor.fetchone()
    if wanted == "delete" and mode == "wal":
        raise sqlite3.OperationalError("database is locked by another process in write-ahead mode")
    cursor.execute(f"PRAGMA synchronous={'FULL' if mode == 'wal' else 'EXTRA'}")
    for pragma in ("foreign_keys=ON", "trusted_schema=OFF", "recursive_triggers=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    kind = connection.get_execution_options().get("secondread_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {kind}")


def open_database(url: str, *, create: bool = False) -> Database:
    """The database at `url`; with `create` its schema is made or brought up to date first.

    Raises HaltPipeline when it is absent or its schema is another one, RetryLater when it is away.
    """
    if create:
        upgrade(url)
    _refuse_absent_file(make_url(url))
    database = Database(make_engine(url))
    try:
        _refuse_other_schema(database)
    except BaseException:
        database.close()
        raise
    return database


def upgrade(url: str) -> None:
    """Run the migrations that the database at `url` lacks, all in one transaction. Raises RetryLater, HaltPipeline."""
    address = make_url(url)
    if address.get_backend_name() == "sqlite" and address.database:
        try:
            Path(address.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HaltPipeline(f"the database's folder cannot be made ({type(error).__name__}); choose another") from (
                error
            )
    database = Database(make_engine(url))
    try:
        with database.transaction() as connection:
            _run_migrations(connection)
    finally:
        database.close()


def _run_migrations(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - Alembic costs start-up time that only this needs
    from alembic.config import Config  # noqa: PLC0415

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('secondread.migrations'))"))
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", MIGRATIONS.replace("%", "%%"))
    command.upgrade(config, "head")


def _refuse_absent_file(address: URL) -> None:
    if address.get_backend_name() == "sqlite" and not (address.database and Path(address.database).is_file()):
        raise HaltPipeline(f"there is no database yet: {_INITIALISE}")


def _refuse_other_schema(database: Database) -> None:
    with database.read() as connection:
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    if found is None or found < SCHEMA:
        raise HaltPipeline(f"the database's schema is older than this program: {_INITIALISE}")
    if found > SCHEMA:
        raise HaltPipeline("the database was made by a newer secondread: install that version")
