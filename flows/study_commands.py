"""Commands for studies: ingest, triage, watch, replay."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.bootstrap import open_house
from flows.console import bars, say, show_facts, show_json, show_table
from pipeline.errors import RetryLater
from pipeline.settings import read_settings

if TYPE_CHECKING:
    from pipeline.intake import Receipt

app = typer.Typer()
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command()
def ingest(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files or folders.", show_default=False)],
    as_json: AsJson = False,
) -> int:
    """Take studies in; exit code 1 when a file went to quarantine."""
    from flows.receiving import existing, take_in

    places = [existing(path) for path in paths]
    with open_house(read_settings()) as house, bars() as shown:
        receipts = [
            receipt
            for place in places
            for receipt in take_in(
                house, place, source="folder", on_progress=lambda done, total: shown.at("ingest", done, total)
            )
        ]
    if as_json:
        show_json([receipt_row(receipt) for receipt in receipts])
    else:
        counts = Counter((str(r.verdict), r.reason or "") for r in receipts)
        show_table("ingest", ("verdict", "reason", "files"), [(*key, n) for key, n in sorted(counts.items())])
    return 1 if any(str(receipt.verdict) == "quarantined" for receipt in receipts) else 0


@app.command()
def triage(
    seal_now: Annotated[
        bool, typer.Option("--seal-now", help="Seal every open study first, however recent its last image.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Seal what is quiet and triage what is ready; exit code 1 when a case waits or no release may speak."""
    with open_house(read_settings()) as house, bars() as shown:
        from flows.triage_flow import run_triage

        summary = run_triage(house, seal_now=seal_now, on_progress=shown.at)
    if as_json:
        show_json(summary)
    else:
        show_triage(summary)
    return 1 if summary["waiting"] or summary["release_problems"] else 0


@app.command()
def watch(
    path: Annotated[Path, typer.Argument(help="The drop folder.")],
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 5.0,
    rounds: Annotated[int | None, typer.Option(help="Stop after so many looks; default never.", min=1)] = None,
    settle: Annotated[float, typer.Option(help="Seconds a file must be left alone before it is taken.", min=0)] = 2.0,
) -> None:
    """Take in what appears in a drop folder and triage what is ready, until stopped. Files there are never changed."""
    from flows.receiving import existing
    from flows.watching import Watcher

    with open_house(read_settings()) as house:
        watcher = Watcher(house, existing(path), settle_seconds=settle)
        done = 0
        while rounds is None or done < rounds:
            if done:
                time.sleep(every)
            try:
                found = watcher.look(time.time())
            except RetryLater as problem:
                say(f"waiting: {problem}")
            else:
                if found.received or found.decided:
                    say(
                        f"{found.received} files taken in, {found.quarantined} of them to quarantine; {found.decided} cases decided"
                    )
            done += 1


@app.command()
def replay(case: Annotated[str, typer.Argument(help="The case's id.")], as_json: AsJson = False) -> int:
    """Recompute a stored decision from its record; exit code 1 when it differs."""
    from flows.replaying import replay_case

    with open_house(read_settings()) as house:
        result = replay_case(house, case)
    if as_json:
        show_json(result)
    else:
        show_facts(f"case {case}", result)
    return 0 if result["identical"] else 1


def receipt_row(receipt: Receipt) -> dict[str, Any]:
    """One file's line of `ingest --json`."""
    return {
        "path": str(receipt.path),
        "verdict": str(receipt.verdict),
        "reason": receipt.reason,
        "study": receipt.study,
    }


def show_triage(summary: dict[str, Any]) -> None:
    """What one triage run did, as a table of routes and reasons."""
    rows = [(row["route"], row["reason"], row["cases"]) for row in summary["reasons"]]
    show_table("triage", ("route", "reason", "cases"), rows)
    say(
        f"{summary['decided']} cases decided, {summary['waiting']} waiting, {summary['open_studies']} studies still open."
    )
    for problem in summary["release_problems"]:
        say(f"No release may speak: {problem}. No case was analysed.")
