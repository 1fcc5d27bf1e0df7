"""Reconciliation of this house with its PACS, once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flows.bootstrap import House
from flows.pulling import archive_of, pacs_of


def reconcile_once(house: House, *, days: float) -> dict[str, Any]:
    """Everything the PACS lists of the last days and we never got. Raises HaltPipeline, RetryLater."""
    from pipeline.reconciliation import reconcile

    archive = archive_of(house)
    found = reconcile(
        house.database,
        pacs_of(house, archive),
        archive.node.name,
        archive.modalities,
        window=timedelta(days=days),
        now=datetime.now(UTC),
    )
    return {
        "studies": found.studies,
        "missing_studies": list(found.missing_studies),
        "missing_instances": {study: list(lost) for study, lost in found.missing_instances.items()},
    }
