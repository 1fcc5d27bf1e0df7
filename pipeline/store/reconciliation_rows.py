"""Comparisons of the PACS' list with the ledger, kept with everything they found missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from pipeline.store.door_tables import reconciliation
from pipeline.store.sequences import new_id


def add(
    connection: Connection,
    *,
    source: str,
    since: datetime,
    until: datetime,
    studies: int,
    missing_studies: Sequence[str],
    missing_instances: Mapping[str, Sequence[str]],
    now: datetime,
) -> None:
    """Write one comparison down."""
    connection.execute(
        insert(reconciliation).values(
            id=new_id(),
            source=source,
            since=since,
            until=until,
            studies=studies,
            missing_studies=list(missing_studies),
            missing_instances={study: list(instances) for study, instances in missing_instances.items()},
            at=now,
        )
    )


def newest(connection: Connection) -> dict[str, Any] | None:
    """When the last comparison was made and how much it found missing, None before the first."""
    row = connection.execute(select(reconciliation).order_by(reconciliation.c.at.desc()).limit(1)).first()
    if row is None:
        return None
    return {
        "at": row.at.isoformat(),
        "studies": row.studies,
        "missing_studies": len(row.missing_studies),
        "missing_instances": sum(map(len, row.missing_instances.values())),
    }
