"""The command that measures how fast this house is on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.console import say, show_json
from pipeline.settings import read_settings

app = typer.Typer()


@app.command()
def bench(
    members: Annotated[int, typer.Option(min=1, help="Members of the ensemble; costs are per member.")] = 2,
    repetitions: Annotated[int, typer.Option(min=1, help="Repetitions, interleaved; medians are shown.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch.")] = 1,
    small: Annotated[bool, typer.Option(help="Small images, in seconds: to see that it runs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Speed on this machine, as ratios: sampling against plain forwards, reading against a pydicom loop."""
    import torch

    from flows.champion import engine_search
    from models.sampling_speed import sampling_rows
    from pipeline.dicom.reading_speed import reading_rows
    from pipeline.domain.interleaved import as_text

    torch.set_num_threads(threads)
    rows = []
    for row in sampling_rows(engine_search(read_settings()), members=members, repetitions=repetitions, small=small):
        rows.append(row)
        if not as_json:
            say(as_text([row]).rstrip())
    reading = reading_rows(repetitions=repetitions, small=small)
    if as_json:
        show_json([row.as_dict() for row in (*rows, *reading)])
        return
    say(as_text(reading).rstrip())
