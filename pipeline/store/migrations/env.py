"""Alembic's entry: runs inside the transaction that the caller holds."""

from __future__ import annotations

from alembic import context

from pipeline.store import door_tables, room_tables, tables  # noqa: F401 - every table joins the metadata
from pipeline.store.columns import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
