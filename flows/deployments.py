"""Schedules and workers: cron deployments of triage and of the door's flows, and the worker that executes their runs.

Why no concurrency limit on the deployment: the slot of a run whose machine died would stay taken for good. Leases in our
own database keep two overlapping runs from deciding one case twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

from flows.door_flows import delivery_flow, notice_flow, pull_flow, reconciliation_flow
from flows.prefect_server import prefect_server
from flows.triage_flow import triage_flow
from flows.workplace import reachable_prefect
from pipeline.errors import HaltPipeline
from pipeline.hospital import Hospital

POOL = "secondread"
DEPLOYMENT = "scheduled"
EVERY_FIVE_MINUTES = "*/5 * * * *"
EVERY_TWO_MINUTES = "*/2 * * * *"
HOURLY = "17 * * * *"


@dataclass(frozen=True)
class Scheduled:
    """A flow with when it runs."""

    flow: Flow[..., Any]
    cron: str
    description: str


def deploy(home: Path, cron: str = EVERY_FIVE_MINUTES, hospital: Hospital | None = None) -> dict[str, str]:
    """Register the scheduled deployments (triage, notices, the door) and their work pool. Raises HaltPipeline."""
    _check_cron(cron)
    with prefect_server(home), reachable_prefect():
        return asyncio.run(_deploy(cron, door_of(hospital or Hospital())))


async def _deploy(cron: str, door: Sequence[Scheduled]) -> dict[str, str]:
    async with get_client() as client:
        with suppress(ObjectAlreadyExists):
            await client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    triage = Scheduled(triage_flow, cron, "Seals quiet studies and triages what is ready.")
    notices = Scheduled(notice_flow, EVERY_TWO_MINUTES, "Escalates overdue cases and tells whoever is in charge.")
    identifiers = [await _register(scheduled) for scheduled in (triage, notices, *door)]
    also = {scheduled.flow.name: scheduled.cron for scheduled in (notices, *door)}
    return {
        "deployment": f"{triage_flow.name}/{DEPLOYMENT}",
        "id": identifiers[0],
        "cron": cron,
        "work_pool": POOL,
        **also,
    }


async def _register(scheduled: Scheduled) -> str:
    deployment = await scheduled.flow.ato_deployment(
        name=DEPLOYMENT,
        cron=scheduled.cron,
        work_pool_name=POOL,
        entrypoint_type=EntrypointType.MODULE_PATH,
        description=scheduled.description,
        tags=["secondread"],
    )
    return str(await deployment.aapply())


def door_of(hospital: Hospital) -> list[Scheduled]:
    """The flows that this hospital gives something to do."""
    pulls = Scheduled(pull_flow, EVERY_FIVE_MINUTES, "Fetches from the PACS what it lists and we lack.")
    compares = Scheduled(reconciliation_flow, HOURLY, "Compares the PACS' list with the ledger.")
    delivers = Scheduled(delivery_flow, EVERY_TWO_MINUTES, "Sends results to the hospital's systems.")
    asked = [pulls, compares] if hospital.archive is not None else []
    return asked + ([delivers] if hospital.results.destinations else [])


def work(home: Path, hospital: Hospital | None = None) -> None:
    """Execute scheduled runs until stopped, against PREFECT_API_URL or a server started here under the home.

    Where nothing is scheduled yet, triage is, every five minutes: a worker that waits for nothing helps nobody.
    """
    with prefect_server(home), reachable_prefect():
        asyncio.run(_work(hospital or Hospital()))


async def _work(hospital: Hospital) -> None:
    async with get_client() as client:
        try:
            await client.read_deployment_by_name(f"{triage_flow.name}/{DEPLOYMENT}")
        except ObjectNotFound:
            await _deploy(EVERY_FIVE_MINUTES, door_of(hospital))
    await ProcessWorker(work_pool_name=POOL).start(printer=_quiet)


def _check_cron(cron: str) -> None:
    from prefect.client.schemas.schedules import CronSchedule

    try:
        CronSchedule(cron=cron)
    except ValueError as error:
        raise HaltPipeline(
            f"'{cron}' is not a cron expression; give five fields such as '{EVERY_FIVE_MINUTES}'"
        ) from error


def _quiet(*_: object) -> None:
    return
