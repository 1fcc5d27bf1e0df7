"""The command that plans a certificate before patients are collected."""

from dataclasses import asdict
from typing import Annotated

import typer

from flows.console import say, show_json, show_table

app = typer.Typer()


@app.command()
def plan(
    alpha: Annotated[float, typer.Option(help="Largest share of studies with the finding that may go to ROUTINE.")],
    delta: Annotated[float, typer.Option(help="Probability that the certificate is wrong; this side's share.")] = 0.05,
    rate: Annotated[float | None, typer.Option(help="True miss rate you expect; default half of alpha.")] = None,
    *,
    power: Annotated[float, typer.Option(help="Wanted probability that the certificate is granted.")] = 0.8,
    prevalence: Annotated[float | None, typer.Option(help="Share of patients with the finding, to count all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """How many patients with the finding a certificate needs, for given limits, expected rate and power."""
    from pipeline.domain.planning import plan as make_plan

    found = make_plan(
        alpha=alpha, delta=delta, rate=alpha / 2 if rate is None else rate, wanted=power, prevalence=prevalence
    )
    if as_json:
        show_json(asdict(found))
        return
    show_table(
        f"patients with the finding that certify {alpha:g} with confidence {1 - delta:g}",
        ["misses among them", "at least"],
        [[str(misses), str(needed)] for misses, needed in enumerate(found.for_misses)],
    )
    say(f"If {found.rate:g} of them are missed in truth, {found.fewest} succeed with probability {power:g} or more;")
    say(f"from {found.always} on that never falls below it again.")
    if found.patients is not None:
        say(f"At a prevalence of {prevalence:g} that is about {found.patients} patients in all.")
