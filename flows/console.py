"""What the terminal shows: tables or JSON on standard output, progress bars on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table


def say(text: str = "") -> None:
    """One line for a person on standard output."""
    Console(soft_wrap=True, highlight=False, markup=False).print(text)


def show_json(value: Any) -> None:
    """`value` as one JSON document on standard output; NaN is refused."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False, default=str) + "\n")
    sys.stdout.flush()


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on standard output; numbers to the right."""
    listed = [list(row) for row in rows]
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for index, column in enumerate(columns):
        numbers = bool(listed) and all(isinstance(row[index], int | float) for row in listed)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in listed:
        table.add_row(*(_cell(value) for value in row))
    Console().print(table)


def show_facts(title: str, facts: Mapping[str, Any]) -> None:
    """A two-column table of names and values."""
    show_table(title, ("", ""), [(name, _cell(value)) for name, value in facts.items()])


class Bars:
    """Progress bars of named stages, told from any thread; a stage that begins again gets another bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def at(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Show that `done` of `total` of `stage` is finished, with a short `note`."""
        if stage not in self._tasks or self._begins_again(stage, done, total):
            self._tasks[stage] = self._progress.add_task(stage, total=total, note=note)
        self._progress.update(self._tasks[stage], completed=done, total=total, note=note)

    def _begins_again(self, stage: str, done: int, total: int | None) -> bool:
        bar = next(task for task in self._progress.tasks if task.id == self._tasks[stage])
        return bar.finished and (done, total) != (bar.completed, bar.total)


@contextmanager
def bars() -> Iterator[Bars]:
    """Progress bars on standard error while the block runs."""
    progress = Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
    )
    with progress:
        yield Bars(progress)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value).replace("[", r"\[")
