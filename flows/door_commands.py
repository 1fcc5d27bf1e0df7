"""Commands of the hospital's door: receive, pull, deliver, reconcile."""

from __future__ import annotations

import signal
import threading
import time
from typing import Annotated, Any

import typer

from flows.bootstrap import House, open_house
from flows.console import say, show_facts, show_json, show_table
from pipeline.errors import RetryLater
from pipeline.settings import read_settings

app = typer.Typer()
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command()
def receive(
    seconds: Annotated[float, typer.Option(help="Stop after so long; 0 means never.", min=0.0)] = 0.0,
) -> int:
    """Listen for studies as a DICOM node until stopped; exit code 1 when something went to quarantine."""
    with open_house(read_settings()) as house:
        from flows.reception import Reception

        node = house.hospital.reception
        with Reception(house) as reception:
            secured = " with TLS" if node.tls else ""
            say(f"{node.ae_title} listens on {node.bind}:{reception.port}{secured} for {len(node.peers)} peers")
            _wait(seconds)
            counts = reception.counts
    say(f"{counts.received} received, {counts.quarantined} of them quarantined, {counts.refused} refused for now")
    return 1 if counts.quarantined else 0


def _wait(seconds: float) -> None:
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    until = time.monotonic() + seconds if seconds else None
    while not stopped.wait(0.5):
        if until is not None and time.monotonic() >= until:
            return


@app.command()
def pull(
    every: Annotated[float, typer.Option(help="Seconds between two looks; 0 looks once.", min=0.0)] = 0.0,
    parked_too: Annotated[bool, typer.Option("--parked", help="Also what was given up after three days.")] = False,
    as_json: AsJson = False,
) -> int:
    """Fetch from the PACS what it lists and we lack; exit code 1 when a study did not come whole."""
    with open_house(read_settings()) as house:
        from flows.pulling import pull_once

        while every:
            _show(_tried(house), as_json=as_json)
            time.sleep(every)
        summary = pull_once(house, parked_too=parked_too)
    _show(summary, as_json=as_json)
    return 1 if summary["waiting"] or summary["parked"] else 0


def _tried(house: House) -> dict[str, Any]:
    """What one look did, or why it could do nothing this time."""
    from flows.pulling import pull_once

    try:
        return pull_once(house)
    except RetryLater as problem:
        return {"problem": str(problem)}


@app.command()
def deliver(
    parked_too: Annotated[bool, typer.Option("--parked", help="Also what was given up after three days.")] = False,
    as_json: AsJson = False,
) -> int:
    """Send results to the hospital's systems; exit code 1 when something was not delivered."""
    with open_house(read_settings()) as house:
        from flows.delivering import deliver_once

        summary = deliver_once(house, parked_too=parked_too)
    _show(summary, as_json=as_json, title="delivered")
    return 1 if summary["states"]["waiting"] or summary["states"]["parked"] else 0


@app.command()
def reconcile(
    days: Annotated[float, typer.Option(help="How far back the PACS' list is compared.", min=0.01)] = 7.0,
    as_json: AsJson = False,
) -> int:
    """Name every study and instance that the PACS lists and we never got; exit code 1 when there is one."""
    with open_house(read_settings()) as house:
        from flows.reconciling import reconcile_once

        found = reconcile_once(house, days=days)
    if as_json:
        show_json(found)
    else:
        lost = [(study, "all") for study in found["missing_studies"]]
        lost += [(study, str(len(instances))) for study, instances in found["missing_instances"].items()]
        show_table(f"missing of {found['studies']} studies", ("study", "instances missing"), lost)
    return 1 if found["missing_studies"] or found["missing_instances"] else 0


def _show(summary: dict[str, Any], *, as_json: bool, title: str = "pulled") -> None:
    if as_json:
        show_json(summary)
    else:
        show_facts(title, summary)
