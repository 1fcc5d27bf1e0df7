"""Schedules and workers: a cron deployment of the triage flow, and the worker that executes its runs.

Why no concurrency limit on the deployment: the slot of a run whose machine died would stay taken for good. Leases in our
own database keep two overlapping runs from deciding one case twice.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

from flows.triage_flow import triage_flow
from flows.workplace import reachable_prefect
from pipeline.errors import HaltPipeline

POOL = "secondread"
DEPLOYMENT = "scheduled"
EVERY_FIVE_MINUTES = "*/5 * * * *"
_SERVER_START_SECONDS = 180.0


def deploy(cron: str = EVERY_FIVE_MINUTES) -> dict[str, str]:
    """Register the scheduled triage deployment and its work pool; says what was made. Raises HaltPipeline."""
    _check_cron(cron)
    with reachable_prefect():
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
    """Execute scheduled runs until stopped, against PREFECT_API_URL or a server started here under the home."""
    with _server(home) as address, temporary_settings({PREFECT_API_URL: address}), reachable_prefect():
        os.environ["PREFECT_API_URL"] = address
        asyncio.run(ProcessWorker(work_pool_name=POOL).start(printer=_quiet))


@contextmanager
def _server(home: Path) -> Iterator[str]:
    given = os.environ.get("PREFECT_API_URL")
    if given:
        yield given
        return
    port = _free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"PREFECT_HOME": os.environ.get("PREFECT_HOME", str(home / "prefect"))}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_healthy(port, server)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_until_healthy(port: int, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _SERVER_START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.5)
    raise HaltPipeline(
        "Prefect's server did not start; run `secondread doctor`, or set PREFECT_API_URL to a running one"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
