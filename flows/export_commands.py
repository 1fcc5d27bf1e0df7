"""The command that takes studies out of the house without their identity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.bootstrap import open_house
from flows.console import bars, say, show_json, show_table
from pipeline.settings import read_settings

app = typer.Typer()


@app.command()
def export(
    studies: Annotated[
        list[str] | None,
        typer.Argument(help="Ids of studies or cases, or StudyInstanceUIDs.", show_default=False),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="A new or empty folder; nothing is ever overwritten.")],
    every: Annotated[bool, typer.Option("--all", help="Every sealed study.")] = False,
    labels: Annotated[bool, typer.Option("--labels", help="Label the images with what readers found.")] = False,
    protocol: Annotated[str | None, typer.Option(help="Whose labels; default the only active protocol.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> int:
    """Write de-identified copies of studies and their manifest; exit code 1 when a series was refused."""
    with open_house(read_settings()) as house, bars() as shown:
        from flows.study_export import export_studies, studies_named

        done = export_studies(
            house,
            studies_named(house, studies or [], every=every),
            out,
            protocol=house.only_protocol(protocol) if labels else None,
            on_progress=lambda at, total: shown.at("export", at, total),
        )
    if as_json:
        show_json(done)
    else:
        _show(done)
    return 1 if done["left_out"] else 0


def _show(done: dict[str, Any]) -> None:
    say(f"{done['series']} series of {done['studies']} studies written, {done['images']} images.")
    if done["left_out"]:
        show_table("refused", ("study", "reason"), [(row["study"], row["reason"]) for row in done["left_out"]])
