"""Schedules and workers: a cron deployment of the triage flow, and the worker that executes its runs.

Why no concurrency limit on the deployment: the slot of a run whose machine died would stay taken for good. Leases in our
own database keep two overlapping runs from deciding one case twice.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

from flows.prefect_server import prefect_server
from flows.triage_flow import triage_flow
from flows.workplace import reachable_prefect
from pipeline.errors import HaltPipeline

POOL = "secondread"
DEPLOYMENT = "scheduled"
EVERY_FIVE_MINUTES = "*/5 * * * *"


def deploy(home: Path, cron: str = EVERY_FIVE_MINUTES) -> dict[str, str]:
    """Register the scheduled triage deployment and its work pool; says what was made. Raises HaltPipeline."""
    _check_cron(cron)
    with prefect_server(home), reachable_prefect():
        return asyncio.run(_deploy(cron))


async def _deploy(cron: str) -> dict[str, str]:
    async with get_client() as client:
        with suppress(ObjectAlreadyExists):
            await client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    deployment = await triage_flow.ato_deployment(
        name=DEPLOYMENT,
        cron=cron,
        work_pool_name=POOL,
        entrypoint_type=EntrypointType.MODULE_PATH,
        description="Seals quiet studies and triages what is ready.",
        tags=["secondread"],
    )
    identifier = await deployment.aapply()
    return {"deployment": f"{triage_flow.name}/{DEPLOYMENT}", "id": str(identifier), "cron": cron, "work_pool": POOL}


def work(home: Path) -> None:
    """Execute scheduled runs until stopped, against PREFECT_API_URL or a server started here under the home.

    Where nothing is scheduled yet, triage is, every five minutes: a worker that waits for nothing helps nobody.
    """
    with prefect_server(home), reachable_prefect():
        asyncio.run(_work())


async def _work() -> None:
    async with get_client() as client:
        try:
            await client.read_deployment_by_name(f"{triage_flow.name}/{DEPLOYMENT}")
        except ObjectNotFound:
            await _deploy(EVERY_FIVE_MINUTES)
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
