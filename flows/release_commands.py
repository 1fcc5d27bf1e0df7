"""Commands for releases: train, evaluate, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.bootstrap import open_house
from flows.console import bars, say, show_facts, show_json
from pipeline.settings import read_settings

app = typer.Typer()
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Labels = Annotated[Path, typer.Argument(metavar="LABELS.csv", help="path,label,patient,split; paths relative to it.")]
ReleaseName = Annotated[str, typer.Argument(metavar="RELEASE", help="A version, an alias (champion) or a folder.")]
ProtocolOption = Annotated[str | None, typer.Option("--protocol", help="The protocol; default the only active one.")]


@app.command()
def train(
    protocol: Annotated[str, typer.Argument(metavar="PROTOCOL", help="A protocol's name or YAML file.")],
    labels: Labels,
    seed: Annotated[int, typer.Option(help="Seed of the members' training.")] = 7,
    actor: Annotated[str, typer.Option("--as", help="Who is doing this; stands in the history.")] = "training",
    as_json: AsJson = False,
) -> int:
    """Train an ensemble, calibrate, certify and register it as challenger; exit code 1 when ROUTINE is not certified."""
    with open_house(read_settings()) as house, bars() as shown:
        from flows.training_flow import run_training

        summary = run_training(house, protocol, labels, seed=seed, actor=actor, on_progress=shown.at)
    if as_json:
        show_json(summary)
    else:
        show_facts(f"{summary['model']} version {summary['release']}", summary["metrics"])
        for certificate in summary["certificates"].values():
            say(certificate["sentence"])
        say(f"Next: `secondread models promote {summary['release']} --as NAME`.")
    return 0 if summary["certificate"]["certified"] else 1


@app.command()
def evaluate(
    release: ReleaseName,
    labels: Labels,
    *,
    report: Annotated[Path, typer.Option(help="Folder for report.json, report.html and the pictures.")],
    split: Annotated[str, typer.Option(help="The split that is judged.")] = "test",
    novel: Annotated[
        list[str] | None, typer.Option(help="Splits that hold no class of the protocol; default ood.")
    ] = None,
    protocol: ProtocolOption = None,
    studies_per_day: Annotated[
        int | None, typer.Option(help="Say what the policy costs in reads a day.", min=1)
    ] = None,
    reads_per_day: Annotated[
        int | None, typer.Option(help="Reads a day there are; say if they suffice.", min=0)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Referral curves, calibration, certificate, subgroups, out-of-distribution: HTML, pictures and JSON."""
    with open_house(read_settings()) as house, bars() as shown:
        from flows.judging import evaluate_release

        result = evaluate_release(
            house,
            release,
            labels,
            report,
            split=split,
            novel=novel,
            protocol=protocol,
            studies_per_day=studies_per_day,
            reads_per_day=reads_per_day,
            on_progress=shown.at,
        )
    if as_json:
        show_json(result)
        return
    show_facts(f"release {release} on split {split}", _headline(result))
    say(f"Report: {report / 'report.html'}")


@app.command()
def predict(
    release: ReleaseName,
    labels: Labels,
    *,
    out: Annotated[Path, typer.Option(help="A .csv or .parquet file.")],
    passes: Annotated[int | None, typer.Option(help="Passes per member; default the protocol's.", min=2)] = None,
    protocol: ProtocolOption = None,
    as_json: AsJson = False,
) -> None:
    """The posterior samples' summary of every case, without routing."""
    with open_house(read_settings()) as house, bars() as shown:
        from flows.judging import predict_release

        count = predict_release(house, release, labels, out, passes=passes, protocol=protocol, on_progress=shown.at)
    if as_json:
        show_json({"cases": count, "out": str(out)})
    else:
        say(f"{count} cases written to {out}")


def _headline(report: dict[str, Any]) -> dict[str, Any]:
    names = ("n", "accuracy", "auc", "nll", "brier", "aurc", "augrc", "auroc_failure")
    return {name: report.get(name) for name in names} | {"ece": report.get("ece", {}).get("value")}
