"""The scheduled flows of the door; the database knows what is left to do, whoever died.

No flow tries again by itself: what failed waits in the database for its own next attempt, and the schedule comes back.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.delivering import deliver_once
from flows.notifying import notify_once
from flows.pulling import pull_once
from flows.reconciling import reconcile_once
from flows.workplace import at_work


@flow(name="pull")
def pull_flow(parked_too: bool = False) -> dict[str, Any]:
    """Fetch from the PACS what it lists and we lack."""
    with at_work() as place:
        return pull_once(place.house, parked_too=parked_too)


@flow(name="deliver")
def delivery_flow(parked_too: bool = False) -> dict[str, Any]:
    """Send results that are due to every destination."""
    with at_work() as place:
        return deliver_once(place.house, parked_too=parked_too)


@flow(name="notify")
def notice_flow(parked_too: bool = False) -> dict[str, Any]:
    """Escalate overdue cases and tell whoever is in charge."""
    with at_work() as place:
        return notify_once(place.house, parked_too=parked_too)


@flow(name="reconcile", persist_result=False)
def reconciliation_flow(days: float = 7.0) -> dict[str, Any]:
    """Compare the PACS' list of the last days with the ledger."""
    with at_work() as place:
        found = reconcile_once(place.house, days=days)
    lost = sum(map(len, found["missing_instances"].values()))
    text = f"# {found['studies']} studies compared\n\n{len(found['missing_studies'])} studies and {lost} instances missing\n"
    create_markdown_artifact(text, key="reconciliation", description="What the PACS has and we do not")
    return found
