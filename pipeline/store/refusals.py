"""What a failed statement means: the same call may succeed later, the tables are absent, or a promise was kept."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, OperationalError

from pipeline.errors import SecondreadError

_PASSING_SQLITE = ("locked", "busy", "disk is full", "disk i/o error", "unable to open", "readonly")
_PASSING_POSTGRES = ("08", "40", "53", "55P03", "57")
"""SQLSTATE classes: connection, transaction rollback, resources, lock not available, operator intervention."""


class ConstraintRefused(SecondreadError):
    """A row that would break a promise was refused by the database; nothing of its transaction was written."""


class DatabaseFailed(SecondreadError):
    """A statement that the database cannot carry out at all: a mistake of this program, told without its values."""


def what_failed(error: DBAPIError) -> str:
    """Kind of error and constraint, never a value."""
    found = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    if found is None and type(error.orig).__module__ == "sqlite3":
        found = str(error.orig)  # names tables, columns and constraints only
    return f"{type(error.orig).__name__} {found or ''}".strip()


def is_missing_table(error: DBAPIError) -> bool:
    """Whether the statement failed because the schema is absent."""
    return getattr(error.orig, "sqlstate", None) == "42P01" or "no such table" in str(error.orig)


def is_passing(error: DBAPIError) -> bool:
    """Whether the same statement may succeed later: locked, full, read-only for now, restarted, unreachable."""
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return str(state).startswith(_PASSING_POSTGRES)
    if type(error.orig).__module__.startswith("psycopg"):
        return error.connection_invalidated or isinstance(error, OperationalError)
    return any(word in str(error.orig).lower() for word in _PASSING_SQLITE)
