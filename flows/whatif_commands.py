"""The command that asks another policy of the stored evidence."""

from typing import Annotated, Any

import typer

from flows.bootstrap import open_house
from flows.console import say, show_facts, show_json, show_table
from pipeline.settings import read_settings

app = typer.Typer()


@app.command()
def whatif(
    *,
    routine_below: Annotated[float | None, typer.Option(help="Scores up to this may be ROUTINE.")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="The threshold that the stored counts give for this limit.")
    ] = None,
    priority_above: Annotated[float | None, typer.Option(help="Scores from this on may be PRIORITY.")] = None,
    mutual_information_limit: Annotated[float | None, typer.Option(help="Largest disagreement, nats.")] = None,
    novelty_level: Annotated[float | None, typer.Option(help="Novelty p-values up to this are unfamiliar.")] = None,
    release: Annotated[str, typer.Option(help="Whose studies and certificates: a version or an alias.")] = "champion",
    studies_per_day: Annotated[int | None, typer.Option(help="Say what it costs in reads a day.", min=1)] = None,
    protocol: Annotated[str | None, typer.Option(help="The protocol; default the only active one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> int:
    """Another policy over stored evidence: flips, reads a day, certified or not; exit code 1 where it is not."""
    with open_house(read_settings()) as house:
        from flows.releases import find_release
        from pipeline.whatif import Change, what_if

        found = find_release(house, release, protocol)
        change = Change(
            routine_below=routine_below if alpha is None else found.certificates["routine"].threshold_at(alpha),
            priority_above=priority_above,
            mutual_information_limit=mutual_information_limit,
            novelty_level=novelty_level,
        )
        result = what_if(
            house.database,
            found.protocol,
            change,
            certificates=found.certificates,
            policy=found.policy,
            studies_per_day=studies_per_day,
        )
    if as_json:
        show_json(result)
    else:
        _show(result)
    return 0 if all(result["certified"].values()) else 1


def _show(result: dict[str, Any]) -> None:
    names = ("studies", "recomputed_alike", "other_release", "unreadable")
    show_facts(f"what if, for {result['protocol']}", {name: result[name] for name in names} | result["change"])
    show_table(
        "studies that would move", ["from", "to", "studies"], [[f["from"], f["to"], f["n"]] for f in result["flips"]]
    )
    for side, covered in result["certified"].items():
        say(f"{side}: {'covered by the certificate' if covered else 'NOT certified'}")
    if not all(result["certified"].values()):
        say("A policy chosen for what it would have done is not certified; certify it on new patients first.")
    read = result["findings_to_routine"]
    say(
        f"Of {read['read_with_finding']} studies read with the finding, {read['before']} are in ROUTINE; "
        f"{read['after']} would be."
    )
    for when, loads in result["reads"].items():
        rows = [[load["specialty"], f"{load['mean']:.1f}", load["busy"]] for load in loads]
        show_table(f"reads a day {when}", ["specialty", "mean", "on 95 of 100 days at most"], rows)
    rows = [[g["column"], g["value"], g["n"], g["flips"]] for g in result["groups"]]
    show_table("groups", ["", "", "studies", "would move"], rows)
