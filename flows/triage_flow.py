"""The triage flow: seal what is quiet, claim what is ready in chunks, decide each case, until nothing is left.

Why Prefect owns no state here: a run may die at any point, and the next run finds in the database what is left. Only case
ids go into parameters, and a task is tried again for one class of error alone, `RetryLater`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from prefect import State, Task, flow
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun

from flows.bootstrap import House
from flows.triage_desk import TriageDesk
from flows.workplace import OnProgress, at_work, handed, silent
from pipeline.errors import RetryLater

RETRY_DELAYS_S = (1.0, 5.0, 15.0)
TELL_EVERY_S = 2.0
_POLL_S = 1.0
T = TypeVar("T")


def run_triage(
    house: House, *, seal_now: bool = False, wait: bool = True, on_progress: OnProgress = silent
) -> dict[str, Any]:
    """Run the triage flow on an open house and return its summary."""
    with handed(house, on_progress):
        return triage_flow(wait=wait, seal_now=seal_now)


@flow(name="triage")
def triage_flow(wait: bool = False, seal_now: bool = False) -> dict[str, Any]:
    """Triage everything that is ready; with `wait`, also what a crashed worker still holds, once its lease ends."""
    with at_work() as place:
        return _triage(place.house, place.on_progress, wait=wait, seal_now=seal_now)


def _triage(house: House, on_progress: OnProgress, *, wait: bool, seal_now: bool) -> dict[str, Any]:
    desk = TriageDesk(house)
    _patiently(partial(desk.seal, everything=seal_now))
    chunk, tell = _chunk_task(desk), _teller(desk, on_progress)
    with desk.leases():
        while True:
            worked = [_work_off(desk, name, chunk, tell) for name in house.protocols]
            if any(worked) or desk.draw_next_maps():
                continue
            if not (wait and _patiently(desk.somebody_holds_cases)):
                break
            time.sleep(_POLL_S)
    tell("")
    summary = _patiently(desk.summary)
    _publish(summary)
    return summary


def _work_off(desk: TriageDesk, protocol: str, chunk: Task[[list[str]], None], tell: Callable[[str], None]) -> bool:
    """Claim and decide one chunk of `protocol`; False when none was ready."""
    case_ids = _patiently(partial(desk.claim, protocol))
    if not case_ids:
        return False
    try:
        chunk(case_ids)
    except RetryLater:
        desk.give_up(case_ids)
    tell(protocol)
    return True


def _patiently(ask: Callable[[], T]) -> T:
    """What `ask` returns, tried again while something is busy. Raises RetryLater when it stays so."""
    for delay in RETRY_DELAYS_S:
        try:
            return ask()
        except RetryLater:
            time.sleep(delay)
    return ask()


def _teller(desk: TriageDesk, on_progress: OnProgress) -> Callable[[str], None]:
    """Tells the caller and Prefect's own page, not more often than somebody could look; without a note always."""
    artifact: Any = create_progress_artifact(0.0, key="triage-progress", description="Cases decided of those ready")
    told = time.monotonic()

    def tell(note: str) -> None:
        nonlocal told
        if note and time.monotonic() - told < TELL_EVERY_S:
            return
        total = desk.decided + _patiently(desk.ready)
        on_progress("triage", desk.decided, total, note)
        update_progress_artifact(artifact, 100.0 * desk.decided / max(total, 1))
        told = time.monotonic()

    return tell


def _chunk_task(desk: TriageDesk) -> Task[[list[str]], None]:
    return Task(
        fn=desk.decide,
        name="triage-chunk",
        retries=len(RETRY_DELAYS_S),
        retry_delay_seconds=list(RETRY_DELAYS_S),
        retry_condition_fn=_is_worth_retrying,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


def _is_worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, RetryLater)


def _publish(summary: dict[str, Any]) -> None:
    lines = [f"| {row['route']} | {row['reason']} | {row['cases']} |" for row in summary["reasons"]]
    text = "\n".join(
        [
            f"# {summary['decided']} cases decided at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "",
            "| route | reason | cases |",
            "|---|---|---|",
            *lines,
            "",
            *(f"No release may speak: {problem}" for problem in summary["release_problems"]),
        ]
    )
    create_markdown_artifact(text, key="triage-report", description="Routes and reasons of one triage run")
    create_table_artifact(summary["reasons"], key="triage-reasons", description="Routes and reasons of one triage run")


__all__ = ["RETRY_DELAYS_S", "run_triage", "triage_flow"]
